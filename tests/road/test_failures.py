"""How jobs fail on the whole platform: with a reason, in words, with what to do."""

import os
import signal
import subprocess
import sys

import pytest
import requests

from deploy.accounts import CHECKOUT
from deploy.trial import Platform, wait_for
from sandbox import seccomp
from sandbox.engine import Engine

WAITS = "import threading\nprint('up')\nthreading.Event().wait()\n"


@pytest.mark.parametrize(
    ("script", "reason", "error"),
    [
        ("import xgboost\n", "missing_module", "ModuleNotFoundError: No module named 'xgboost'"),
        ("def broken(:\n", "syntax_error", "SyntaxError: invalid syntax"),
        ("raise ValueError('no data')\n", "script_error", "ValueError: no data"),
        ("import sys\nsys.exit(3)\n", "script_error", "The script ended with exit code 3."),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
            "script_killed",
            "The script was ended by SIGKILL.",
        ),
        (
            "import mlflow\nwith mlflow.start_run():\n    mlflow.log_metric('accuracy', 1)\n",
            "no_model_logged",
            "The script ended without logging a model.",
        ),
    ],
)
def test_a_script_that_fails_says_why(platform: Platform, script: str, reason: str, error: str):
    job = platform.run(script)
    assert (job["status"], job["reason"], job["error"]) == ("failed", reason, error)
    assert job["hint"]
    assert job["model_version"] is None
    if "Error" in error:
        assert error in job["logs"]


def test_a_script_that_is_no_python_is_told_so_before_anything_is_resolved(platform: Platform):
    job = platform.run("x = 1\ndef broken(:\n", requirements=["no-such-package-on-any-index-4711"])
    assert (job["reason"], job["error"]) == ("syntax_error", "SyntaxError: invalid syntax")
    assert "line 2\n    def broken(:\n               ^\n" in job["logs"]
    events = platform.get(f"/mlops/training/jobs/{job['job_id']}/events").json()["events"]
    assert "environment_build_started" not in [event["name"] for event in events]


def test_a_script_without_a_model_still_names_its_run(platform: Platform):
    job = platform.run("import mlflow\nmlflow.start_run()\n")
    assert job["reason"] == "no_model_logged"
    assert job["run_id"]


def test_requirements_that_do_not_exist_are_named(platform: Platform):
    job = platform.run("print(1)\n", requirements=["no-such-package-on-any-index-4711"])
    assert job["reason"] == "requirements_not_found"
    assert "no-such-package-on-any-index-4711" in job["error"]


def test_memory_that_runs_out_is_told_from_a_kill(platform: Platform):
    job = platform.run("x = []\nwhile True:\n    x.append(bytearray(50_000_000))\n")
    assert job["reason"] == "out_of_memory"


def test_what_was_printed_before_a_kill_is_in_the_log(platform: Platform):
    job = platform.run("import os\nprint('last words')\nos.kill(os.getpid(), 9)\n")
    assert "last words" in job["logs"]


def test_a_running_job_shows_its_output_so_far_and_its_container_is_locked_down(
    platform: Platform, engine: Engine
):
    job_id = platform.upload(WAITS)
    platform.in_phase(job_id, "training")
    wait_for(lambda: "up" in platform.job(job_id)["logs"], seconds=20, what="live output")
    container = platform.container_of(job_id)
    host = engine.api.inspect_container(container)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"] is True
    assert host["SecurityOpt"] == ["no-new-privileges", seccomp.OPTION]
    assert host["Memory"] == host["MemorySwap"]
    platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)
    assert platform.ended(job_id)["status"] == "cancelled"
    assert engine.state(container) is None


def test_a_job_whose_container_somebody_removed_runs_again_and_can_be_cancelled(
    platform: Platform, engine: Engine
):
    job_id = platform.upload(WAITS)
    platform.in_phase(job_id, "training")
    engine.remove(platform.container_of(job_id))
    wait_for(lambda: platform.job(job_id)["attempt"] == 2, seconds=60, what="a second attempt")
    platform.in_phase(job_id, "training")
    platform.post(f"/mlops/training/jobs/{job_id}/cancel", None)
    ended = platform.ended(job_id)
    assert (ended["status"], ended["reason"]) == ("cancelled", "cancelled")


def test_a_killed_supervisor_loses_and_doubles_nothing(platform: Platform):
    script = (
        "import time\n"
        "for number in range(40):\n"
        "    print('line', number)\n"
        "    time.sleep(0.1)\n"
        "raise RuntimeError('the end')\n"
    )
    job_id = platform.upload(script)
    platform.in_phase(job_id, "training")
    wait_for(lambda: "line 5\n" in platform.job(job_id)["logs"], seconds=20, what="output")
    os.kill(platform.processes()["supervisor"], signal.SIGKILL)
    job = platform.ended(job_id)
    assert job["error"] == "RuntimeError: the end"
    lines = [line for line in job["logs"].splitlines() if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(40)]


def test_more_jobs_than_places_all_come_to_their_end(platform: Platform):
    job_ids = [platform.upload(f"raise SystemExit({number + 1})\n") for number in range(5)]
    ended = [platform.ended(job_id) for job_id in job_ids]
    assert [job["error"] for job in ended] == [
        f"The script ended with exit code {number + 1}." for number in range(5)
    ]


def test_the_helper_fails_with_the_job_and_says_why(platform: Platform, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import xgboost\n")
    command = [sys.executable, str(CHECKOUT / "examples" / "upload_training_script.py")]
    command += ["--url", platform.url, "--script", str(script), "--experiment", "e", "--model", "m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "No module named 'xgboost'" in done.stderr
    assert "requirements" in done.stderr


def test_an_upload_that_is_wrong_names_every_field(platform: Platform):
    body = {"script_name": "x", "script_content": "", "timeout": 5}
    answer = platform.post("/mlops/training/upload", body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    fields = {error["field"] for error in answer.json()["errors"]}
    assert fields == {"script_name", "script_content", "timeout"}


def test_a_file_sent_as_a_form_is_taken(platform: Platform, tmp_path):
    files = {"script": ("train.py", b"raise SystemExit(7)\n")}
    answer = requests.post(
        f"{platform.url}/mlops/training/upload",
        files=files,
        data={"experiment_name": "form", "model_name": "form"},
        timeout=30,
    )
    assert answer.status_code == 202, answer.text
    assert platform.ended(answer.json()["job_id"])["error"] == "The script ended with exit code 7."


@pytest.mark.parametrize(
    "path", ["/mlops/training/jobs/unknown", "/mlops/nothing", "/mlops/models/nobody"]
)
def test_what_is_not_there_is_a_problem_document(platform: Platform, path: str):
    answer = platform.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
