"""Somebody holds the database's write lock for 20 seconds while a job runs."""

import sqlite3
import threading
from contextlib import closing

import requests

from deploy.trial import Platform, wait_for

LOCKED_SECONDS = 20
LINES = 250
PRINTS = f"""\
import time
for number in range({LINES}):
    print("line", number, flush=True)
    time.sleep(0.1)
raise SystemExit(3)
"""


def test_nothing_is_lost_while_the_database_is_locked(platform: Platform):
    sent_before = len(platform.jobs)
    job_id = platform.upload(PRINTS)
    platform.in_phase(job_id, "training")
    wait_for(lambda: "line 3\n" in platform.job(job_id)["logs"], seconds=30, what="output")
    path = platform.home / "db" / "platform.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        during = threading.Thread(target=_sends_a_job, args=(platform,))
        during.start()
        threading.Event().wait(LOCKED_SECONDS)
        assert platform.job(job_id)["status"] == "running", "reading goes on"
        lock.execute("ROLLBACK")
    during.join()
    job = platform.ended(job_id)
    assert (job["status"], job["attempt"]) == ("failed", 1)
    assert job["error"] == "The script ended with exit code 3."
    lines = [line for line in job["logs"].splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(LINES)]
    for accepted in platform.jobs[sent_before:]:
        assert platform.ended(accepted)["status"] == "failed"


def _sends_a_job(platform: Platform) -> None:
    """It is accepted, and then kept, or it is told that it is not."""
    try:
        platform.upload("raise SystemExit(3)\n")
    except (AssertionError, requests.RequestException):
        return
