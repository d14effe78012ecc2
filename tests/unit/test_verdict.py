"""How a job's end is decided from facts."""

import pytest

from training.modules import requirement_for
from training.states import ENDINGS, TERMINAL, TRANSITIONS, Reason, Status
from training.verdict import ExitFacts, failure_of, last_exception_line

MISSING_MODULE = """\
Training started
Traceback (most recent call last):
  File "/job/train.py", line 1, in <module>
    import xgboost
ModuleNotFoundError: No module named 'xgboost'
"""
SYNTAX = """\
  File "/job/train.py", line 3
    def broken(:
               ^
SyntaxError: invalid syntax
"""
CHAINED = """\
Traceback (most recent call last):
  File "/job/train.py", line 2, in <module>
    load()
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/job/train.py", line 4, in <module>
    raise pipeline.errors.LoadFailed("no data: none")
pipeline.errors.LoadFailed: no data: none
Error: this line is the script's own and no exception
"""


def facts(**changed):
    given = {
        "exit_code": 1,
        "oom_killed": False,
        "intent": "",
        "seconds": 10.0,
        "timeout_seconds": 300,
        "grace_seconds": 10,
        "log_tail": "",
    }
    return ExitFacts(**{**given, **changed})


def test_a_script_that_ended_well_has_not_failed():
    assert failure_of(facts(exit_code=0)) is None


def test_memory_that_ran_out_in_a_child_does_not_fail_a_script_that_went_on():
    assert failure_of(facts(exit_code=0, oom_killed=True)) is None


@pytest.mark.parametrize("exit_code", [1, 3, 171])
def test_a_failure_whose_last_words_the_engine_lost_is_not_the_scripts(exit_code):
    end = failure_of(facts(exit_code=exit_code, output_is_whole=False))
    assert end.reason is Reason.ENGINE_UNAVAILABLE
    assert failure_of(facts(exit_code=0, output_is_whole=False)) is None


@pytest.mark.parametrize("exit_code", [124, 137, 143, 0])
def test_a_deadline_that_we_recorded_outweighs_every_exit_code(exit_code):
    end = failure_of(facts(exit_code=exit_code, intent="deadline", oom_killed=True))
    assert end.reason is Reason.TIMEOUT
    assert "300 seconds" in end.sentence


def test_the_launchers_exit_code_is_a_deadline_only_when_the_time_was_over():
    assert failure_of(facts(exit_code=124, seconds=300.2)).reason is Reason.TIMEOUT
    assert failure_of(facts(exit_code=124, seconds=20)).reason is Reason.SCRIPT_ERROR


def test_the_launchers_exit_code_is_the_log_quota_only_when_so_much_was_printed():
    assert failure_of(facts(exit_code=226, printed_too_much=True)).reason is Reason.LOG_QUOTA
    assert failure_of(facts(exit_code=226)).reason is Reason.SCRIPT_ERROR
    assert failure_of(facts(exit_code=0, printed_too_much=True)) is None


def test_137_is_memory_only_when_the_engine_says_so():
    assert failure_of(facts(exit_code=137, oom_killed=True)).reason is Reason.OUT_OF_MEMORY
    assert failure_of(facts(exit_code=137)).reason is Reason.ENGINE_UNAVAILABLE


@pytest.mark.parametrize("exit_code", [137, 169])
def test_who_was_killed_with_his_memory_full_ran_out_of_it_whatever_the_engine_was_told(
    exit_code: int,
):
    full = {"memory_mb": 100, "peak_memory_bytes": 96 * 1024**2}
    assert failure_of(facts(exit_code=exit_code, **full)).reason is Reason.OUT_OF_MEMORY
    roomy = full | {"peak_memory_bytes": 90 * 1024**2}
    assert failure_of(facts(exit_code=exit_code, **roomy)).reason is not Reason.OUT_OF_MEMORY
    # Full is not too full: a script that ends by itself ended of something else.
    assert failure_of(facts(exit_code=1, **full)).reason is Reason.SCRIPT_ERROR


def test_memory_that_ran_out_says_the_limit_and_the_most_that_was_seen():
    seen = facts(exit_code=169, oom_killed=True, memory_mb=2048, peak_memory_bytes=2000 * 1024**2)
    assert "2048 MiB, the most seen was 2000 MiB" in failure_of(seen).sentence


def test_a_signal_to_the_script_is_told_from_one_to_its_container():
    killed = failure_of(facts(exit_code=160 + 9))
    assert killed.reason is Reason.SCRIPT_KILLED
    assert "SIGKILL" in killed.sentence
    for from_outside in (137, 143, 225):
        end = failure_of(facts(exit_code=from_outside))
        assert end.reason is Reason.ENGINE_UNAVAILABLE
        assert end.ending.retried_by_us


@pytest.mark.parametrize("exit_code", [0, 1, 124, 137, 169, 225])
def test_what_we_decided_outweighs_every_exit_code(exit_code):
    assert failure_of(facts(exit_code=exit_code, intent="cancel")).status is Status.CANCELLED
    if exit_code != 124:
        end = failure_of(facts(exit_code=exit_code, intent="log_quota", oom_killed=True))
        assert end.reason is Reason.LOG_QUOTA


@pytest.mark.parametrize("exit_code", [0, 1, 137, 225])
def test_a_script_that_ran_past_its_grace_is_a_timeout_by_the_clock(exit_code):
    assert failure_of(facts(exit_code=exit_code, seconds=311)).reason is Reason.TIMEOUT


def test_a_full_disk_is_told_from_other_errors():
    log = 'Traceback (most recent call last):\n  File "/job/t.py", line 1\n'
    end = failure_of(facts(log_tail=log + "OSError: [Errno 28] No space left on device\n"))
    assert end.reason is Reason.DISK_FULL


def test_a_missing_module_is_named_and_the_hint_tells_the_remedy():
    end = failure_of(facts(log_tail=MISSING_MODULE))
    assert end.reason is Reason.MISSING_MODULE
    assert end.sentence == "ModuleNotFoundError: No module named 'xgboost'"
    assert 'Add "xgboost" to `requirements`' in end.hint


@pytest.mark.parametrize(
    ("module", "requirement"),
    [
        ("sklearn", "scikit-learn"),
        ("sklearn.ensemble", "scikit-learn"),
        ("cv2", "opencv-python-headless"),
        ("yaml", "PyYAML"),
        ("google.cloud.storage", "google-cloud-storage"),
        ("xgboost", "xgboost"),
    ],
)
def test_a_missing_module_leads_to_the_requirement_that_brings_it(module, requirement):
    assert requirement_for(module) == requirement


def test_a_syntax_error_is_told_from_an_exception():
    end = failure_of(facts(log_tail=SYNTAX))
    assert (end.reason, end.sentence) == (Reason.SYNTAX_ERROR, "SyntaxError: invalid syntax")


def test_the_last_of_chained_exceptions_is_the_error():
    assert last_exception_line(CHAINED) == "pipeline.errors.LoadFailed: no data: none"


def test_an_exception_without_words_is_still_found():
    log = 'Traceback (most recent call last):\n  File "/job/t.py", line 1\nAssertionError\n'
    assert last_exception_line(log) == "AssertionError"


def test_output_without_a_traceback_has_no_exception():
    assert last_exception_line("Loading data...\nValueError: printed by the script\n") is None


def test_an_exit_code_without_a_traceback_is_named():
    assert failure_of(facts(exit_code=3)).sentence == "The script ended with exit code 3."


def test_every_reason_has_words_and_every_failure_a_hint():
    assert set(ENDINGS) == set(Reason)
    for ending in ENDINGS.values():
        assert ending.sentence
        assert ending.hint or ending.status is Status.COMPLETED


def test_an_ended_job_never_moves_again():
    assert all(TRANSITIONS[status] == frozenset() for status in TERMINAL)


@pytest.mark.parametrize(
    "line",
    [
        "mlflow.exceptions.MlflowException: API request to http://10.0.0.1:5000/api/2.0/mlflow/runs"
        "/create failed with exception HTTPConnectionPool(host='10.0.0.1', port=5000): Max retries",
        "requests.exceptions.ConnectionError: HTTPConnectionPool(host='10.0.0.1', port=5000): Max "
        "retries exceeded with url: /api/2.0/mlflow-artifacts/artifacts/1",
    ],
)
def test_a_script_that_could_not_reach_mlflow_is_not_to_blame(line: str):
    log = f'Traceback (most recent call last):\n  File "x", line 1\n{line}\n'
    found = failure_of(facts(exit_code=1, log_tail=log, tracking_uri="http://10.0.0.1:5000"))
    assert found.reason is Reason.TRACKING_UNAVAILABLE
    elsewhere = facts(exit_code=1, log_tail=log, tracking_uri="http://10.0.0.2:5000")
    assert failure_of(elsewhere).reason is Reason.SCRIPT_ERROR


def test_mlflows_own_word_for_a_lost_server_counts_when_its_cause_is_in_the_log():
    uri = "http://10.0.0.1:5000"
    words = "mlflow.exceptions.MlflowException: The provided MLFLOW_EXPERIMENT_ID environment "
    end = f"Traceback (most recent call last):\n{words}variable value `1` does not exist\n"
    cause = (
        "Traceback (most recent call last):\nmlflow.exceptions.MlflowException: API request to "
        f"{uri}/api/2.0/mlflow/experiments/get failed with exception x\n\n"
    )
    lost = failure_of(facts(exit_code=1, log_tail=cause + end, tracking_uri=uri))
    assert lost.reason is Reason.TRACKING_UNAVAILABLE
    deleted = failure_of(facts(exit_code=1, log_tail=end, tracking_uri=uri))
    assert deleted.reason is Reason.SCRIPT_ERROR
