"""What the process manager does with processes that die: real ones, on a clock of the tests."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.docker_engine import Daemon
from deploy.processes import (
    DEATHS_TOLD,
    HEALTHY_SECONDS,
    LONGEST_DELAY_SECONDS,
    Backoff,
    GaveUp,
    ProcessManager,
    Service,
)
from deploy.trial import wait_for
from mlops_site.processes import processes

ENDS = "print('the last words'); raise SystemExit(3)"
WAITS = "import threading; threading.Event().wait()"
# A child in a process group of its own, as the worker's cluster is.
HAS_CHILD = (
    "import subprocess, sys, threading\n"
    f"subprocess.Popen([sys.executable, '-c', {WAITS!r}, sys.argv[1]], process_group=0)\n"
    "threading.Event().wait()\n"
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager(tmp_path: Path, clock: Clock):
    made = ProcessManager(logs=tmp_path, clock=clock)
    yield made
    made.stop()


def service(code: str, *arguments: str) -> Service:
    command = (sys.executable, "-c", code, *arguments)
    return Service(name="part", command=command, environment={})


def marked(mark: str) -> list[int]:
    return [process.pid for process in processes() if mark in process.title]


def die(manager: ProcessManager, clock: Clock) -> None:
    """Lets the running process end, and its death be noticed."""
    manager._running["part"].process.wait(timeout=20)
    manager.check()


def test_delays_double_up_to_the_longest(clock: Clock):
    backoff = Backoff(clock=clock)
    assert [backoff.died() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_minutes_of_health_make_the_next_delay_short_again(clock: Clock):
    backoff = Backoff(clock=clock)
    for _ in range(4):
        backoff.died()
    backoff.started()
    clock.now += HEALTHY_SECONDS + 1
    assert backoff.died() == 1


def test_a_died_process_is_started_again_when_its_turn_has_come(
    manager: ProcessManager, clock: Clock
):
    manager.start(service(WAITS))
    first = manager._running["part"].process
    first.kill()
    die(manager, clock)
    manager.check()
    assert manager._running["part"].process is first
    clock.now += 1.0
    manager.check()
    assert manager._running["part"].process is not first


def test_what_dies_again_and_again_ends_a_start_with_its_last_lines(
    manager: ProcessManager, clock: Clock
):
    manager.start(service(ENDS))
    with pytest.raises(GaveUp, match="the last words"):
        for _ in range(DEATHS_TOLD):
            die(manager, clock)
            clock.now += LONGEST_DELAY_SECONDS
            manager.check()


def test_what_dies_again_and_again_later_is_tried_for_ever_and_told_once(
    manager: ProcessManager, clock: Clock, capsys
):
    manager.start(service(ENDS))
    manager.settled()
    for _ in range(DEATHS_TOLD + 3):
        die(manager, clock)
        clock.now += LONGEST_DELAY_SECONDS
        manager.check()
    said = capsys.readouterr().err
    assert said.count("ends again and again") == 1
    assert said.count("the last words") == DEATHS_TOLD


def test_what_a_died_process_left_in_other_groups_is_killed_with_it(
    manager: ProcessManager, clock: Clock, tmp_path: Path
):
    mark = f"child-of-{tmp_path}"
    manager.start(service(HAS_CHILD, mark))
    wait_for(lambda: len(marked(mark)) == 2, seconds=20, what="the child")
    manager._running["part"].process.kill()
    die(manager, clock)
    assert marked(mark) == []


def test_a_stop_leaves_nothing_but_what_is_to_be_kept(manager: ProcessManager, tmp_path: Path):
    mark = f"stopped-{tmp_path}"
    manager.start(service(HAS_CHILD, mark))
    kept = Service(name="kept", command=(sys.executable, "-c", WAITS, mark), environment={})
    manager.start(kept)
    wait_for(lambda: len(marked(mark)) == 3, seconds=20, what="the processes")
    manager.stop(keep=("kept",))
    assert len(marked(mark)) == 1
    manager.stop()
    assert marked(mark) == []


def test_an_engine_of_ours_that_dies_is_started_again(tmp_path: Path):
    daemon = Daemon(log=tmp_path / "log", command=(sys.executable, "-c", WAITS))
    first = daemon.process
    try:
        daemon.check()
        assert daemon.process is first
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=20)
        wait_for(
            lambda: daemon.check() or daemon.process is not first, seconds=10, what="a new engine"
        )
        assert daemon.process.poll() is None
    finally:
        daemon.stop()
    assert isinstance(daemon.process, subprocess.Popen)
