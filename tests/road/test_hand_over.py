"""A real worker is killed while it hands a job over to a real container that waited for it."""

import contextlib
import os
import signal
import sqlite3
import uuid
from collections.abc import Iterator

import pytest

from deploy.trial import Platform, wait_for
from sandbox.engine import Engine

# Those that wait for other environments, of other tests' jobs, are none of ours.
READY = (
    "SELECT container_id FROM training_waitingcontainer WHERE state = 'ready' AND environment_key ="
    " (SELECT environment_key FROM training_job ORDER BY created_at DESC LIMIT 1)"
)
TAKEN = (
    "SELECT a.container_id FROM training_attempt a JOIN training_waitingcontainer w "
    "ON w.attempt_id = a.id AND w.container_id = a.container_id WHERE a.job_id = '{job}'"
)
RAN = "it ran"
ENDS = f"print('{RAN}', flush=True)\nraise SystemExit(7)\n"
ENDED = "The script ended with exit code 7."
READY_SECONDS = 90
TAKEN_SECONDS = 60
RECOVERY_SECONDS = 90


def ask(platform: Platform, query: str) -> list[str]:
    path = platform.home / "db" / "platform.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as rows:
        return [str(row[0]) for row in rows.execute(query)]


@pytest.fixture
def held(platform: Platform, engine: Engine) -> Iterator[dict[str, int]]:
    """The launchers of all containers that wait, by container, stopped: none answers an order."""
    platform.run(ENDS)
    ready = wait_for(lambda: ask(platform, READY), seconds=READY_SECONDS, what="one that waits")
    pids = {each: engine.api.inspect_container(each)["State"]["Pid"] for each in ready}
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    yield pids
    for pid in pids.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("answers", ["at once", "never"])
def test_a_worker_that_is_killed_in_the_middle_runs_nothing_twice(
    platform: Platform, engine: Engine, held: dict[str, int], answers: str
):
    job_id = platform.upload(ENDS)
    taken = TAKEN.format(job=uuid.UUID(job_id).hex)
    found = wait_for(lambda: ask(platform, taken), seconds=TAKEN_SECONDS, what="the hand-over")
    os.kill(platform.processes()["worker"], signal.SIGKILL)
    answering = held if answers == "at once" else held.keys() - set(found)
    for container in answering:
        os.kill(held[container], signal.SIGCONT)
    job = platform.ended(job_id)
    assert job["error"] == ENDED, job
    # An attempt whose order was there goes on; one whose order was not never ran.
    assert 1 <= job["logs"].count(RAN) <= job["attempt"] <= 2
    if answers == "never":
        assert (job["logs"].count(RAN), job["attempt"]) == (1, 2)

    def nothing_is_left() -> bool:
        return not any(engine.state(container) for container in found)

    wait_for(nothing_is_left, seconds=RECOVERY_SECONDS, what="the container's removal")
    assert not ask(platform, taken)
