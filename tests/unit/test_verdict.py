"""How a job's end is decided from facts."""

import pytest

from training.states import ENDINGS, TRANSITIONS, Reason, Status
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
        "log_tail": "",
    }
    return ExitFacts(**{**given, **changed})


def test_a_script_that_ended_well_has_not_failed():
    assert failure_of(facts(exit_code=0)) is None


def test_memory_that_ran_out_in_a_child_does_not_fail_a_script_that_went_on():
    assert failure_of(facts(exit_code=0, oom_killed=True)) is None


@pytest.mark.parametrize("exit_code", [124, 137, 143, 0])
def test_a_deadline_that_we_recorded_outweighs_every_exit_code(exit_code):
    end = failure_of(facts(exit_code=exit_code, intent="deadline", oom_killed=True))
    assert end.reason is Reason.TIMEOUT
    assert "300 seconds" in end.sentence


def test_the_launchers_exit_code_is_a_deadline_only_when_the_time_was_over():
    assert failure_of(facts(exit_code=124, seconds=300.2)).reason is Reason.TIMEOUT
    assert failure_of(facts(exit_code=124, seconds=20)).reason is Reason.SCRIPT_FAILED


def test_137_is_memory_only_when_the_engine_says_so():
    assert failure_of(facts(exit_code=137, oom_killed=True)).reason is Reason.OUT_OF_MEMORY
    killed = failure_of(facts(exit_code=137))
    assert killed.reason is Reason.KILLED
    assert "SIGKILL" in killed.sentence


def test_a_missing_module_is_named_and_the_hint_tells_the_remedy():
    end = failure_of(facts(log_tail=MISSING_MODULE))
    assert end.reason is Reason.MODULE_MISSING
    assert end.sentence == "ModuleNotFoundError: No module named 'xgboost'"
    assert "requirements" in end.hint


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
    assert TRANSITIONS[Status.COMPLETED] == TRANSITIONS[Status.FAILED] == frozenset()
