"""A platform that is paused starts nothing, loses nothing, and goes on when it is resumed."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.accounts import CHECKOUT
from deploy.trial import Platform, wait_for

SCRIPT = "raise SystemExit(3)\n"
WAITS = "import threading\nprint('up', flush=True)\nthreading.Event().wait()\n"
BACK_SECONDS = 60
TOLD_SECONDS = 30


def manage(*words: str) -> list[str]:
    return [sys.executable, "-m", "deploy", "manage", "admission", *words]


def of(platform: Platform) -> dict[str, str]:
    return {**os.environ, "MLOPS_HOME": str(platform.home)}


def told(platform: Platform, *words: str) -> str:
    """What an operator's command says."""
    run = {"cwd": CHECKOUT, "env": of(platform), "capture_output": True, "text": True}
    ended = subprocess.run(manage(*words), **run)
    assert ended.returncode == 0, ended.stderr
    return str(ended.stdout)


def rows(platform: Platform, query: str) -> list[tuple[Any, ...]]:
    path = platform.home / "db" / "platform.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def taken_back(platform: Platform) -> Iterator[None]:
    """Whatever becomes of a test, the next one finds a platform that takes work."""
    yield
    told(platform, "resume")
    told(platform, "undrain")


def test_a_pause_holds_a_job_back_over_a_kill_and_a_resume_starts_it(
    platform: Platform, taken_back: None
):
    assert told(platform, "pause", "--why", "The disk is replaced.").startswith("paused by ")
    job_id = platform.upload(SCRIPT)
    job = platform.job(job_id)
    assert (job["status"], job["waiting_for"]) == ("queued", "paused")
    for path in ("/mlops/admission", "/mlops/ready", "/mlops/status"):
        document = platform.get(path).json()
        paused = document.get("admission", document)["paused"]
        assert paused["why"] == "The disk is replaced." and paused["by"], path
    before = platform.processes()
    for name in ("supervisor", "worker"):
        os.kill(before[name], signal.SIGKILL)

    def is_back() -> bool:
        now = platform.processes()
        new = all(now.get(name) not in (None, before[name]) for name in ("supervisor", "worker"))
        return new and platform.get("/mlops/ready").status_code == 200

    wait_for(is_back, seconds=BACK_SECONDS, what="worker and supervisor to work again")
    job = platform.job(job_id)
    assert (job["status"], job["waiting_for"]) == ("queued", "paused")
    assert not platform.get(f"/mlops/training/jobs/{job_id}").json()["attempts"]
    assert told(platform, "resume").startswith("open: ")
    assert platform.ended(job_id)["reason"] == "script_error"


def test_a_drained_worker_lets_what_runs_end_and_says_when_nothing_is_left(
    platform: Platform, taken_back: None
):
    running = platform.upload(WAITS)
    platform.in_phase(running, "training")
    command = subprocess.Popen(
        manage("drain", "--wait"),
        cwd=CHECKOUT,
        env=of(platform),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(
            lambda: platform.get("/mlops/admission").json()["draining"],
            seconds=TOLD_SECONDS,
            what="the drain",
        )
        waits = platform.upload(SCRIPT)
        assert platform.job(waits)["waiting_for"] == "draining"
        assert platform.get("/mlops/admission").json()["drained"] is False
        assert command.poll() is None
        platform.post(f"/mlops/training/jobs/{running}/cancel", None)
        said, _ = command.communicate(timeout=BACK_SECONDS)
    finally:
        command.kill()
    assert said.endswith("Nothing is left that has an end.\n")
    assert platform.get("/mlops/admission").json()["drained"] is True
    assert platform.job(waits)["status"] == "queued"
    told(platform, "undrain")
    assert platform.ended(waits)["reason"] == "script_error"


def test_processes_tell_what_they_are_at_and_acts_are_written_down(platform: Platform):
    platform.ended(platform.upload(SCRIPT))

    def report() -> dict[str, Any] | None:
        found = dict(rows(platform, "SELECT name, told FROM mlops_site_report"))
        told = next((found[name] for name in found if name.startswith("worker ")), None)
        return {**found, "worker": json.loads(told)} if told and "queue" in found else None

    found = wait_for(report, seconds=TOLD_SECONDS, what="the worker to tell")
    assert found["worker"]["whole"] and len(found["worker"]["processes"]) >= 1
    assert json.loads(found["queue"])["kind"] == "database"
    settings = json.loads(found["settings"])
    assert settings["MLOPS_SECRET_KEY"] == "hidden" and "MLOPS_MLFLOW_PASSWORD" in settings
    acts = rows(platform, "SELECT act, channel FROM registry_auditentry")
    assert {("job.upload", "api"), ("user.add", "cli")} <= set(acts)
