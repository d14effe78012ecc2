"""The dry run of an upload: what is found, that nothing runs, and that nothing is left behind."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from sandbox.engine import EngineUnavailable
from sandbox.environments import BuildStopped, EnvironmentFailed, EnvironmentLock
from tests.fixtures.sent_jobs import a_job
from training import script_check
from training.models import Attempt, IdempotencyKey, Job, JobEvent, JobTerm, Resolution
from training.modules import distributions_in, is_brought
from training.script_check import read_script
from training.services import claim, resolve
from training.services import validate as validating

CONTRACT_SCRIPT = (Path(__file__).parents[1] / "fixtures" / "contract_train.py").read_text()
LOCK = "\n".join(
    f"{name}==1.0"
    for name in ("mlflow-skinny", "pandas", "numpy", "scikit-learn", "scipy", "pyyaml")
)
GOOD = "import mlflow\nmlflow.autolog()\n"


class Store:
    """Stands where the environments of an engine stand."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answer: EnvironmentLock | Exception = EnvironmentLock("key", LOCK, installed=False)

    def resolve(self, requirements: list[str], **options: Any) -> EnvironmentLock:
        self.asked.append(list(requirements))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(resolve.engine_room, "environments", lambda *_: made)
    return made


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the supervisor queued."""
    queued: list[int] = []
    monkeypatch.setattr(
        resolve, "async_task", lambda name, pk, **options: queued.append(pk) or name
    )
    return queued


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating, "RESOLVE_WAIT_SECONDS", 0.0)


def check(api: Client, script: str = GOOD, **fields: Any) -> dict[str, Any]:
    body = {"script_name": "train.py", "script_content": script, **fields}
    answer = api.post("/mlops/training/validate", json.dumps(body), content_type="application/json")
    assert answer.status_code == 200, answer.json()
    return answer.json()


def resolved(api: Client, *requirements: str) -> None:
    """The set is known from now on."""
    known = resolve.ask(requirements, python_version="3.11")
    assert known is not None
    resolve.answer(known.pk)


def codes(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(finding["severity"], finding["code"]) for finding in found["findings"]]


# -- the script ----------------------------------------------------------------------------------
def test_the_contracts_script_is_valid_once_its_requirements_are_known(api: Client, store, room):
    resolved(api, "scikit-learn")
    found = check(api, CONTRACT_SCRIPT, requirements=["scikit-learn"])
    assert (found["valid"], found["findings"]) == (True, [])
    assert found["limits"]["timeout_seconds"] == 300
    assert found["queue"] == {"position": 1, "waiting_for": None}


def test_a_mistake_in_the_syntax_has_its_line_and_column(api: Client):
    found = check(api, "import mlflow\n\ndef train(:\n    pass\n")
    assert not found["valid"]
    (finding,) = found["findings"]
    assert (finding["code"], finding["field"]) == ("syntax_error", "script_content")
    assert (finding["line"], finding["column"]) == (3, 11)
    assert "def train(:" in finding["hint"]


@pytest.mark.parametrize(
    "script",
    ["return 5\n", "  x = 1\n", "if x:\n\ty\n        z\n", "# coding: nonsense\n", "f(**a, *b)"],
)
def test_whatever_python_would_refuse_is_a_syntax_error(api: Client, script: str):
    assert ("error", "syntax_error") in codes(check(api, script))


@pytest.mark.parametrize(
    "script",
    [
        "(" * 100_000,
        "x" + ".a" * 200_000,
        "-" * 500_000 + "1",
        "a" + "=a" * 100_000,
        "[" * 90 + "]" * 90 + "\n" + "x=[" + "0," * 400_000 + "]",
    ],
    ids=["brackets", "attributes", "signs", "targets", "data"],
)
def test_a_hostile_script_is_answered_in_bounded_time_and_breaks_nothing(script: str):
    reading = read_script(script)
    assert reading.problem or reading.unread or reading.imports == ()


def test_a_script_that_is_too_much_is_not_called_wrong(api: Client, monkeypatch):
    monkeypatch.setattr(script_check, "SECONDS", 0.0)
    found = check(api)
    assert found["valid"]
    assert ("warning", "not_checked") in codes(found)


def test_nothing_of_the_script_is_run(api: Client, tmp_path: Path):
    mark = tmp_path / "ran"
    check(api, f"open({str(mark)!r}, 'w')\n")
    assert not mark.exists()


def test_the_reader_sees_none_of_our_variables_and_none_of_our_modules(monkeypatch):
    monkeypatch.setenv("MLOPS_SECRET_KEY", "secret")
    seen: dict[str, Any] = {}
    run = script_check.subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        seen.update(options, command=command)
        return run(command, **options)

    monkeypatch.setattr(script_check.subprocess, "run", watched)
    read_script(GOOD)
    assert seen["env"] == {}
    assert seen["command"][:3] == [sys.executable, "-I", "-S"]


def test_too_many_at_once_are_told_to_wait(api: Client, monkeypatch):
    monkeypatch.setattr(script_check, "WAIT_SECONDS", 0.0)
    for _ in range(script_check.AT_ONCE):
        script_check._readers.acquire()
    try:
        body = {"script_name": "train.py", "script_content": GOOD}
        answer = api.post(
            "/mlops/training/validate", json.dumps(body), content_type="application/json"
        )
    finally:
        for _ in range(script_check.AT_ONCE):
            script_check._readers.release()
    assert (answer.status_code, answer.json()["code"]) == (503, "too_busy")
    assert answer["Retry-After"] == "5"


def test_a_script_without_a_model_in_sight_is_warned_of(api: Client):
    found = check(api, "import mlflow\n")
    assert found["valid"]
    assert codes(found) == [("warning", "no_model_logged")]
    for script in ("from mlflow.sklearn import log_model\n", "import mlflow\nmlflow.autolog()\n"):
        assert check(api, script)["findings"] == []


# -- imports -------------------------------------------------------------------------------------
def test_an_import_that_nothing_brings_names_the_requirement_to_add(api: Client, store):
    resolved(api)
    found = check(api, GOOD + "import os, sys\nimport cv2\nimport yaml\n")
    assert not found["valid"]
    (finding,) = found["findings"]
    assert (finding["code"], finding["line"]) == ("missing_module", 4)
    assert "'opencv-python-headless'" in finding["hint"]


def test_what_a_requirement_brings_along_is_covered(api: Client, store):
    resolved(api, "scikit-learn")
    script = GOOD + "import numpy, scipy.sparse\nfrom sklearn import svm\n"
    assert check(api, script, requirements=["scikit-learn"])["findings"] == []


def test_while_requirements_are_not_resolved_a_missing_module_is_a_warning(api: Client):
    found = check(api, GOOD + "import numpy\nimport sklearn\n", requirements=["scikit-learn"])
    assert found["valid"]
    assert [finding["detail"] for finding in found["findings"]] == [
        "No requirement brings the module 'numpy', as far as is known."
    ]


def test_an_import_that_may_fail_is_no_error(api: Client, store):
    resolved(api)
    guarded = "try:\n    import cv2\nexcept ImportError:\n    cv2 = None\n"
    assert check(api, GOOD + guarded)["findings"] == []
    inside = "def plot():\n    import matplotlib.pyplot\n"
    assert codes(check(api, GOOD + inside)) == [("warning", "missing_module")]
    other = "try:\n    import cv2\nexcept ValueError:\n    pass\n"
    assert codes(check(api, GOOD + other)) == [("error", "missing_module")]


def test_a_file_beside_the_script_cannot_be_imported(api: Client, store):
    resolved(api)
    found = check(api, GOOD + "from . import helpers\n")
    assert codes(found) == [("error", "relative_import")]


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("sklearn.svm", "scikit-learn"),
        ("cv2", "opencv-python"),
        ("mlflow.sklearn", "mlflow-skinny"),
        ("faiss", "faiss-gpu"),
        ("pythonjsonlogger", "python-json-logger"),
        ("google.cloud.storage", "google-cloud-storage"),
        ("PIL", "pillow"),
        ("typing_extensions", "typing-extensions"),
    ],
)
def test_a_module_is_found_under_the_name_of_its_package(module: str, distribution: str):
    assert is_brought(module, distributions_in([f"{distribution}==1.0"]))
    assert not is_brought(module, distributions_in(["six==1.0"]))


# -- requirements --------------------------------------------------------------------------------
def test_what_would_be_installed_is_found_out_by_a_worker_and_remembered(api: Client, store, tasks):
    assert check(api, requirements=["scikit-learn"])["requirements"]["status"] == "resolving"
    resolve.dispatch()
    resolve.dispatch()
    assert len(tasks) == 1
    resolve.answer(tasks[0])
    found = check(api, requirements=["scikit_learn"])["requirements"]
    assert (found["status"], found["installed"]) == ("resolved", False)
    assert "scikit-learn==1.0" in found["packages"]
    resolve.answer(tasks[0])
    assert store.asked == [["scikit-learn"]]


def test_requirements_that_cannot_be_installed_are_an_error_with_their_reason(api: Client, store):
    store.answer = EnvironmentFailed(
        reason="requirements_conflict", detail="a and b exclude each other.", hint="Loosen them."
    )
    resolved(api, "a", "b")
    found = check(api, requirements=["a", "b"])
    assert not found["valid"]
    assert codes(found) == [("error", "requirements_conflict")]
    assert found["requirements"]["status"] == "failed"
    assert found["requirements"]["detail"] == "a and b exclude each other."


@pytest.mark.parametrize(
    ("error", "reason", "severity"),
    [
        (EngineUnavailable("gone"), "engine_unavailable", "warning"),
        (OSError("disk"), "internal_error", "warning"),
        (BuildStopped(), "environment_build_timeout", "error"),
    ],
)
def test_an_answer_that_fails_is_an_answer(
    api: Client, store, error: Exception, reason: str, severity: str
):
    store.answer = error
    resolved(api, "a")
    assert (severity, reason) in codes(check(api, requirements=["a"]))


def test_a_failure_of_ours_is_asked_again_soon_and_a_refusal_later(db, store):
    store.answer = EngineUnavailable("gone")
    known = resolve.ask(["a"], python_version="3.11")
    resolve.answer(known.pk)
    assert resolve.ask(["a"], python_version="3.11").status == "failed"
    Resolution.objects.update(answered_at=timezone.now() - timedelta(seconds=31))
    assert resolve.ask(["a"], python_version="3.11").status == "resolving"
    store.answer = EnvironmentFailed(reason="requirements_not_found", detail="No a.", hint="")
    resolve.answer(known.pk)
    Resolution.objects.update(answered_at=timezone.now() - timedelta(seconds=31))
    assert resolve.ask(["a"], python_version="3.11").status == "failed"


def test_a_lost_task_is_queued_again_and_one_is_resolved_at_a_time(db, tasks):
    first = resolve.ask(["a"], python_version="3.11")
    second = resolve.ask(["b"], python_version="3.11")
    resolve.dispatch()
    assert tasks == [first.pk]
    late = timezone.now() - timedelta(seconds=resolve.RESOLVE_PATIENCE_SECONDS + 1)
    Resolution.objects.filter(pk=first.pk).update(queued_at=late)
    resolve.dispatch()
    resolve.dispatch()
    assert tasks == [first.pk, first.pk]
    Resolution.objects.filter(pk=first.pk).update(status="resolved")
    resolve.dispatch()
    assert tasks == [first.pk, first.pk, second.pk]


def test_a_question_takes_no_worker_from_jobs(db, tasks, settings):
    settings.LONG_TASKS = 1
    resolve.ask(["a"], python_version="3.11")
    a_job()
    Job.objects.update(status="running", phase="building_environment")
    resolve.dispatch()
    assert tasks == []
    Job.objects.update(phase="training")
    resolve.dispatch()
    assert len(tasks) == 1
    assert claim.builders_busy()


def test_too_many_questions_are_not_asked(api: Client):
    for number in range(resolve.OPEN_MAX):
        resolve.ask([f"p{number}"], python_version="3.11")
    assert check(api, requirements=["one-more"])["requirements"]["status"] == "not_asked"
    assert Resolution.objects.count() == resolve.OPEN_MAX


def test_an_environment_that_a_job_builds_is_there_from_then_on(api: Client, store):
    resolved(api, "a")
    resolve.note_installed("key")
    assert check(api, requirements=["a"])["requirements"]["installed"] is True


# -- the rest ------------------------------------------------------------------------------------
def test_nothing_else_is_made(api: Client):
    check(api, requirements=["pandas"])
    for model in (Job, JobTerm, JobEvent, Attempt, IdempotencyKey):
        assert model.objects.count() == 0
    assert Resolution.objects.count() == 1


def test_a_request_that_is_wrong_is_refused_as_at_an_upload(api: Client):
    body = json.dumps({"script_name": "x", "script_content": "", "timeout": 5})
    answers = [
        api.post(path, body, content_type="application/json")
        for path in ("/mlops/training/upload", "/mlops/training/validate")
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json()["errors"] == answers[1].json()["errors"]


def test_a_form_is_taken_as_at_an_upload(api: Client, tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(GOOD)
    with script.open("rb") as opened:
        answer = api.post("/mlops/training/validate", {"script": opened, "timeout": "60"})
    assert answer.status_code == 200
    assert answer.json()["limits"]["timeout_seconds"] == 60


def test_the_place_in_the_queue_is_that_of_a_job_sent_now(api: Client, room):
    a_job(), a_job()
    assert check(api)["queue"] == {"position": 3, "waiting_for": "turn"}
    assert check(api, priority="high")["queue"]["position"] == 1


def test_a_cap_that_is_reached_is_a_warning(api: Client, settings):
    a_job()
    settings.JOB_CAPS = {**settings.JOB_CAPS, "queue_jobs": 1}
    assert ("warning", "too_many_jobs") in codes(check(api))
