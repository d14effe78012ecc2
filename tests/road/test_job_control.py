"""What a client can do with jobs on the whole platform: check, repeat, list, cancel, look up."""

import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from deploy.trial import Platform, wait_for
from sandbox.engine import Engine

WAITS = "import threading\nprint('up', flush=True)\nthreading.Event().wait()\n"
SAYS = "import os\nprint('N is', os.environ['N'])\nraise SystemExit(int(os.environ['N']))\n"
RESOLVE_SECONDS = 120


@pytest.fixture
def nothing_left(platform: Platform) -> Iterator[list[str]]:
    """The ids of jobs that are cancelled after the test, whatever becomes of it."""
    job_ids: list[str] = []
    yield job_ids
    for job_id in job_ids:
        platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)
    for job_id in job_ids:
        platform.ended(job_id)


def unknown_set(*requirements: str) -> list[str]:
    """Requirements that no environment was ever built or resolved for."""
    return [*requirements, f"six!=0.{uuid.uuid4().int % 10**9}"]


def cancelled(platform: Platform, job_id: str) -> requests.Response:
    return platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)


def validated(platform: Platform, script: str, **fields: Any) -> dict[str, Any]:
    body = {"script_name": "train.py", "script_content": script, **fields}
    answer = platform.post("/mlops/training/validate", body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# -- before a job --------------------------------------------------------------------------------
def test_a_script_is_checked_without_making_a_job(platform: Platform):
    found = validated(platform, "import mlflow\ndef train(:\n", model_name="never_made")
    assert not found["valid"]
    assert (found["findings"][0]["line"], found["findings"][0]["column"]) == (2, 11)
    assert platform.get("/mlops/training/jobs?model=never_made").json()["jobs"] == []


def test_requirements_are_resolved_by_a_worker_and_the_second_answer_is_there_at_once(
    platform: Platform,
):
    script = "import mlflow\nimport six, numpy, cv2\nmlflow.autolog()\n"
    asked = {"requirements": unknown_set()}

    def look() -> dict[str, Any] | None:
        found = validated(platform, script, **asked)
        return found if found["requirements"]["status"] != "resolving" else None

    found = wait_for(look, seconds=RESOLVE_SECONDS, what="the requirements to be resolved")
    assert found["requirements"]["status"] == "resolved", found
    packages = {line.partition("==")[0] for line in found["requirements"]["packages"]}
    assert {"six", "mlflow-skinny", "pandas", "numpy"} <= packages
    assert [finding["detail"] for finding in found["findings"]] == [
        "No requirement brings the module 'cv2'."
    ]
    began = time.monotonic()
    assert validated(platform, script, **asked) == found
    assert time.monotonic() - began < 4


def test_requirements_that_exclude_each_other_are_found_before_a_job(platform: Platform):
    asked = {"requirements": unknown_set("pandas<2", "pandas>=2")}

    def look() -> dict[str, Any] | None:
        found = validated(platform, "import mlflow\n", **asked)
        return found if found["requirements"]["status"] != "resolving" else None

    found = wait_for(look, seconds=RESOLVE_SECONDS, what="the requirements to be refused")
    assert found["requirements"]["reason"] == "requirements_conflict"
    assert not found["valid"]


# -- a job and its repetition ----------------------------------------------------------------------
def test_an_upload_sent_twice_under_one_key_is_one_job(platform: Platform):
    def send() -> requests.Response:
        # A form draws a new boundary each time, as curl does.
        return requests.post(
            f"{platform.url}/mlops/training/upload",
            files={"script": ("train.py", b"raise SystemExit(4)\n")},
            headers={"Idempotency-Key": key},
            timeout=30,
        )

    key = str(uuid.uuid4())
    first, second = send(), send()
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    platform.ended(first.json()["job_id"])
    assert send().json() == first.json()
    other = platform.post(
        "/mlops/training/upload",
        {"script_name": "other.py", "script_content": "print(1)"},
        headers={"Idempotency-Key": key},
    )
    assert other.status_code == 422


def test_a_job_runs_again_with_other_variables_and_both_are_linked(platform: Platform):
    first = platform.run(SAYS, environment_vars={"N": "3", "KEPT": "yes"})
    assert "N is 3" in first["logs"]
    path = f"/mlops/training/jobs/{first['job_id']}/rerun"
    answer = platform.post(path, {"environment_vars": {"N": "7"}, "tags": {"try": "second"}})
    assert answer.status_code == 202, answer.text
    second = platform.ended(answer.json()["job_id"])
    assert "N is 7" in second["logs"]
    assert second["error"] == "The script ended with exit code 7."
    assert second["rerun_of"] == first["job_id"]
    assert platform.job(first["job_id"])["reruns"] == [second["job_id"]]
    found = platform.get("/mlops/training/jobs?tag=try=second&status=failed").json()["jobs"]
    assert second["job_id"] in [job["job_id"] for job in found]


def test_an_ended_job_tells_what_it_used_and_hands_out_script_and_lock(platform: Platform):
    script = "x = bytearray(50_000_000)\nfor _ in range(30_000_000): pass\nraise SystemExit(2)\n"
    job = platform.run(script)
    (attempt,) = job["attempts"]
    assert (attempt["number"], attempt["exit_code"]) == (1, 2)
    assert attempt["ended_at"] >= attempt["started_at"]
    assert {"waiting", "training"} <= job["usage"]["phase_seconds"].keys()
    path = f"/mlops/training/jobs/{job['job_id']}"
    assert platform.get(f"{path}/script").text == script
    lock = platform.get(f"{path}/environment")
    assert lock.headers["Content-Type"].startswith("text/plain")
    assert "mlflow-skinny==3.13." in lock.text


def test_jobs_are_listed_page_by_page(platform: Platform):
    tag = uuid.uuid4().hex
    sent = [
        platform.upload(f"raise SystemExit({number + 1})\n", tags={"list": tag})
        for number in range(3)
    ]
    path, seen = f"/mlops/training/jobs?tag=list={tag}&limit=2", []
    while path:
        page = platform.get(path).json()
        seen += [job["job_id"] for job in page["jobs"]]
        path = page["next"]
    assert seen == sent[::-1]
    assert all("logs" not in job for job in page["jobs"])
    for job_id in sent:
        platform.ended(job_id)


# -- cancel ----------------------------------------------------------------------------------------
def test_a_job_that_waits_says_for_what_and_is_cancelled_at_once(
    platform: Platform, nothing_left: list[str]
):
    def one_waits() -> dict[str, Any] | None:
        for job_id in nothing_left:
            job = platform.job(job_id)
            if job["waiting_for"] in ("cpus", "memory", "slots"):
                return job
        return None

    for _ in range(2 * (os.cpu_count() or 1) + 2):
        nothing_left.append(platform.upload(WAITS))
    waiting = wait_for(one_waits, seconds=60, what="a job that does not fit any more")
    assert waiting["position"] >= 1
    answer = cancelled(platform, waiting["job_id"])
    assert answer.status_code == 200
    job = platform.job(waiting["job_id"])
    assert (job["status"], job["attempt"]) == ("cancelled", None)
    limits = platform.get("/mlops/training/limits").json()
    assert limits["waiting_for"] == waiting["waiting_for"]
    assert limits["platform"]["running_jobs"]["used"] >= 1


def test_a_job_whose_environment_is_being_built_is_cancelled(
    platform: Platform, nothing_left: list[str], engine: Engine
):
    job_id = platform.upload("print(1)\n", requirements=unknown_set("scikit-learn"))
    nothing_left.append(job_id)
    platform.in_phase(job_id, "building_environment")
    answer = cancelled(platform, job_id)
    assert answer.status_code == 202
    assert "before its script starts" in answer.json()["detail"]
    job = platform.ended(job_id)
    assert (job["status"], job["reason"]) == ("cancelled", "cancelled")
    builds = {"mlops.installation": platform.installation_id, "mlops.kind": "build"}
    assert engine.find(builds) == []


def test_a_job_that_trains_is_cancelled_and_a_second_cancel_is_harmless(
    platform: Platform, nothing_left: list[str], engine: Engine
):
    job_id = platform.upload(WAITS)
    nothing_left.append(job_id)
    platform.in_phase(job_id, "training")
    container = platform.container_of(job_id)
    answers = [cancelled(platform, job_id).status_code for _ in range(2)]
    assert set(answers) <= {200, 202}
    job = platform.ended(job_id)
    assert (job["status"], job["reason"]) == ("cancelled", "cancelled")
    assert container
    assert engine.state(container) is None
    assert cancelled(platform, job_id).status_code == 200


def test_a_job_that_has_ended_cannot_be_cancelled_and_says_how_it_ended(platform: Platform):
    job = platform.run("raise SystemExit(9)\n")
    answer = cancelled(platform, job["job_id"])
    assert answer.status_code == 409
    assert "exit code 9" in answer.json()["detail"]
    assert f"{job['job_id']}/rerun" in answer.json()["hint"]


def test_every_reason_that_a_job_can_have_is_published(platform: Platform):
    told = {entry["reason"] for entry in platform.get("/mlops/training/reasons").json()["reasons"]}
    assert platform.run("raise SystemExit(9)\n")["reason"] in told
