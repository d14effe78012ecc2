"""What is killed comes back, what runs is given back, and one supervisor acts at a time."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from django.conf import settings
from docker.errors import APIError

from deploy.accounts import CHECKOUT
from deploy.testing import ROAD_SUFFIX, remove_installation
from deploy.trial import TERMINAL, Platform, start_platform, stop_platform, wait_for
from mlops_site.models import BEAT_FRESH_SECONDS
from mlops_site.processes import group_of, processes
from mlops_site.worker_unit import BUSY_MARK, SILENT_SECONDS, STOP_SECONDS, Look, look_at
from sandbox.engine import Engine
from tests.fixtures.engine_proxy import EngineProxy

PARTS = ("database", "worker", "supervisor", "queue", "engine", "network", "mlflow")
ENDS = "raise SystemExit(7)\n"
ENDED = "The script ended with exit code 7."
# Of which up to half a minute is waiting: the kills of this module follow each other without the
# minutes of health that make the next start quick again.
RECOVERY_SECONDS = 90
LEASE_SECONDS = 15
COUNTED = 300
COUNTS = f"""\
import time
for number in range({COUNTED}):
    print("line", number, flush=True)
    time.sleep(0.1)
raise SystemExit(7)
"""
BEATEN = "SELECT beaten_at FROM mlops_site_heartbeat WHERE name = 'supervisor'"
WORKER_BEATEN = "SELECT beaten_at FROM mlops_site_heartbeat WHERE name = 'worker'"
MEASURED = "SELECT measured_at FROM training_enginecapacity"
# Waits for ever in its first two attempts, and ends in the third.
ENDS_AT_THE_THIRD = """\
import json, os, threading
attempt = json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["job_attempt"].rpartition("/")[2]
print("this is attempt", attempt)
if attempt != "3":
    threading.Event().wait()
raise SystemExit(7)
"""


@dataclass(frozen=True)
class Unit:
    """The cluster that a platform's worker runs."""

    watcher: int
    main: int
    look: Look


def unit_of(platform: Platform) -> Unit | None:
    """None while it is not whole."""
    watcher = platform.processes().get("worker")
    main = next((each.pid for each in processes() if each.parent == watcher), None)
    if watcher is None or main is None:
        return None
    look = look_at(main, group_of(main))
    whole = look.complete and len(look.workers) == settings.QUEUE_WORKERS
    return Unit(watcher, main, look) if whole else None


VICTIMS: dict[str, Callable[[Unit], int | None]] = {
    "first worker": lambda unit: sorted(unit.look.workers)[0],
    "second worker": lambda unit: sorted(unit.look.workers)[1],
    "third worker": lambda unit: sorted(unit.look.workers)[2],
    "pusher": lambda unit: unit.look.pusher,
    "monitor": lambda unit: unit.look.monitor,
    "guard": lambda unit: unit.look.guard,
    "main process": lambda unit: unit.main,
    "watcher": lambda unit: unit.watcher,
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_worker_works_again_whatever_of_it_is_killed(platform: Platform, victim: str):
    before = wait_for(lambda: unit_of(platform), seconds=RECOVERY_SECONDS, what="a whole worker")
    pid = VICTIMS[victim](before)
    assert pid is not None
    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert platform.run(ENDS)["error"] == ENDED
    assert time.monotonic() - killed_at < RECOVERY_SECONDS
    after = wait_for(lambda: unit_of(platform), seconds=RECOVERY_SECONDS, what="a whole worker")
    if after.main != before.main:
        assert group_of(before.main) == []
    assert pid not in {process.pid for process in group_of(after.main)}


def test_readiness_names_each_part_its_age_and_what_is_wrong(platform: Platform):
    def ready() -> dict | None:
        answer = platform.get("/mlops/ready")
        return answer.json() if answer.status_code == 200 else None

    body = wait_for(ready, seconds=RECOVERY_SECONDS, what="readiness")
    assert body["parts"] == dict.fromkeys(PARTS, True)
    for name, part in body["details"].items():
        assert part["works"], name
        assert part["detail"] == ""
    assert body["details"]["worker"]["age_seconds"] <= BEAT_FRESH_SECONDS


def test_a_pruned_network_is_made_again_and_jobs_go_on(platform: Platform, engine: Engine):
    name = f"mlops-{platform.installation_id}-jobs"
    before = engine.api.inspect_network(name)
    wait_for(lambda: pruned(engine, platform, before["Id"]), seconds=30, what="nobody in it")

    def restored() -> dict | None:
        found = engine.api.networks(names=[f"^{name}$"])
        return engine.api.inspect_network(name) if found else None

    after = wait_for(restored, seconds=30, what="the network")
    assert after["IPAM"]["Config"] == before["IPAM"]["Config"]
    assert after["Options"] == before["Options"]
    assert platform.run(ENDS)["error"] == ENDED


def pruned(engine: Engine, platform: Platform, network_id: str) -> bool:
    """As `docker network prune` does it: only when no container is in it, none that waits."""
    label = {"mlops.installation": platform.installation_id, "mlops.kind": "waiting"}
    for state in engine.find(label):
        engine.remove(state.id)
    try:
        engine.api.remove_network(network_id)
    except APIError:
        return False
    return True


def test_processes_are_replaced_under_a_job_that_goes_on(platform: Platform):
    """As a service manager does at an upgrade: it is adopted, and no line of it is lost."""
    job_id = platform.upload(COUNTS)
    wait_for_log(platform, job_id, "line 5\n")
    for name in ("supervisor", "worker", "web"):
        before = platform.processes()[name]
        os.kill(before, signal.SIGTERM)
        wait_for(
            lambda name=name, before=before: platform.processes().get(name, before) != before,
            seconds=RECOVERY_SECONDS,
            what=f"another {name}",
        )
    job = wait_for(lambda: ended_now(platform, job_id), seconds=120, what="its end")
    assert (job["error"], job["attempt"]) == (ENDED, 1)
    lines = [line for line in job["logs"].splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(COUNTED)]


def ended_now(platform: Platform, job_id: str) -> dict | None:
    """None also while nobody answers."""
    try:
        job = platform.job(job_id)
    except requests.ConnectionError:
        return None
    return job if job["status"] in TERMINAL else None


def test_tasks_that_the_queue_lost_are_asked_for_again(platform: Platform):
    unit = wait_for(lambda: unit_of(platform), seconds=RECOVERY_SECONDS, what="a whole worker")
    assert unit.look.pusher is not None
    os.kill(unit.look.pusher, signal.SIGSTOP)
    try:
        job_id = platform.upload(ENDS)
        wait_for(lambda: has_queued(platform.home), seconds=20, what="the queued task")
        with sqlite3.connect(platform.home / "db" / "platform.sqlite3", timeout=20) as database:
            database.execute("DELETE FROM django_q_ormq")
    finally:
        os.kill(unit.look.pusher, signal.SIGCONT)
    assert platform.ended(job_id)["error"] == ENDED


def test_running_jobs_run_again_after_a_stop_and_after_a_power_cut(
    engine: Engine, installation_id: str, tmp_path_factory: pytest.TempPathFactory
):
    other = f"{installation_id}{ROAD_SUFFIX[:2]}3"
    home = tmp_path_factory.mktemp("stopped") / "var"
    started: list[Platform] = []

    def start() -> Platform:
        started.append(start_platform(home, other))
        return started[-1]

    try:
        first = start()
        job_id = first.upload(ENDS_AT_THE_THIRD)
        wait_for_log(first, job_id, "this is attempt 1")
        said = stop_platform(first)
        assert "1 job was stopped and will run again at the next start." in said
        assert engine.find({"mlops.installation": other}) == []
        assert reasons(home) == ["platform_stopped"]

        second = start()
        wait_for_log(second, job_id, "this is attempt 2")
        cut_power(second, engine)
        third = start()
        job = third.ended(job_id)
        assert (job["status"], job["error"], job["attempt"]) == ("failed", ENDED, 3)
        lines = [line for line in job["logs"].splitlines() if line.startswith("this is")]
        assert lines == [f"this is attempt {number}" for number in (1, 2, 3)]
        assert reasons(home)[0] == "platform_stopped"
        assert engine.find({"mlops.installation": other, "mlops.kind": "job"}) == []
    except BaseException:
        print(*(platform.said() for platform in started[-1:]))
        raise
    finally:
        if started and started[-1].process.poll() is None:
            stop_platform(started[-1])
        remove_installation(engine, other)


@pytest.fixture
def by_hand(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., "ByHand"]]:
    """Starts commands of one installation by hand; none of them is left afterwards."""
    environment = {
        **os.environ,
        "MLOPS_HOME": str(tmp_path),
        "MLOPS_INSTALLATION_ID": "test-by-hand",
        "MLOPS_SECRET_KEY": "a key that only this test uses",
    }
    for name in ("db", "jobs"):
        (tmp_path / name).mkdir()
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "prepare_platform"], cwd=CHECKOUT, env=environment, check=True)
    made: list[ByHand] = []

    def start(*command: str, **variables: str) -> ByHand:
        log = tmp_path / f"{command[0]}-{len(made)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*manage, *command],
                cwd=CHECKOUT,
                env={**environment, **variables},
                stdout=output,
                stderr=output,
            )
        made.append(ByHand(process, log))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.wait()
        print(each.said())


@dataclass(frozen=True)
class ByHand:
    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def says(self, words: str, *, seconds: float) -> None:
        """Waits for it; fails when it has not come by then."""
        wait_for(lambda: words in self.said(), seconds=seconds, what=f"{words}; {self.said()}")


def test_a_second_supervisor_waits_and_takes_over_from_a_killed_one(by_hand):
    first = by_hand("supervise")
    first.says("supervisor.acts", seconds=30)
    second = by_hand("supervise")
    second.says("supervisor.waits", seconds=30)
    first.process.kill()
    second.says("supervisor.acts", seconds=LEASE_SECONDS + 15)


def test_a_second_supervisor_takes_over_at_once_from_one_that_ended(by_hand):
    first = by_hand("supervise")
    first.says("supervisor.acts", seconds=30)
    second = by_hand("supervise")
    second.says("supervisor.waits", seconds=30)
    first.process.terminate()
    assert first.process.wait(timeout=30) == 0
    # Of a lease that is not given back 12 seconds are left: it is renewed every 3.
    second.says("supervisor.acts", seconds=LEASE_SECONDS - 5)


def test_a_supervisor_that_slept_longer_than_its_lease_notices_and_ends(by_hand):
    first = by_hand("supervise")
    first.says("supervisor.acts", seconds=30)
    second = by_hand("supervise")
    second.says("supervisor.waits", seconds=30)
    first.process.send_signal(signal.SIGSTOP)
    second.says("supervisor.acts", seconds=LEASE_SECONDS + 15)
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=30) != 0
    assert "Another supervisor may act for this engine now." in first.said()
    assert second.process.poll() is None


def test_a_supervisor_outlives_its_engine(by_hand, tmp_path: Path):
    proxy = EngineProxy(tmp_path / "engine.sock")
    supervisor = by_hand("supervise", DOCKER_HOST=proxy.address)
    supervisor.says("supervisor.look_failed engine", seconds=30)
    wait_for(lambda: latest(tmp_path, BEATEN), seconds=20, what="a heartbeat without an engine")
    try:
        for _ in range(2):
            before = latest(tmp_path, MEASURED)
            proxy.open()
            wait_for(
                lambda seen=before: latest(tmp_path, MEASURED) > seen,
                seconds=30,
                what=f"the engine to be measured; {supervisor.said()}",
            )
            proxy.close()
            beaten = latest(tmp_path, BEATEN)
            wait_for(
                lambda seen=beaten: latest(tmp_path, BEATEN) > seen,
                seconds=20,
                what=f"a heartbeat after the engine went; {supervisor.said()}",
            )
            assert supervisor.process.poll() is None
    finally:
        proxy.close()


def cluster_by_hand(by_hand, home: Path) -> tuple["ByHand", int]:
    """A worker that has beaten, and the main process of its cluster."""
    worker = by_hand("work")
    wait_for(lambda: latest(home, WORKER_BEATEN), seconds=120, what=f"a beat; {worker.said()}")
    main = next(each.pid for each in processes() if each.parent == worker.process.pid)
    return worker, main


def test_a_cluster_whose_tasks_stand_still_is_ended_whole(by_hand, tmp_path: Path):
    worker, main = cluster_by_hand(by_hand, tmp_path)
    pusher = look_at(main, group_of(main)).pusher
    assert pusher is not None
    os.kill(pusher, signal.SIGSTOP)
    assert worker.process.wait(timeout=SILENT_SECONDS + 20) == 1
    assert "no task was run for 30 s although a worker was free" in worker.said()
    assert group_of(main) == []


def test_a_stop_ends_a_cluster_in_bounded_time_whatever_it_is_at(by_hand, tmp_path: Path):
    worker, main = cluster_by_hand(by_hand, tmp_path)
    long_task = "from django_q.tasks import async_task; async_task('time.sleep', 600)"
    by_hand("shell", "-c", long_task).process.wait(timeout=30)

    def at_it() -> bool:
        return any(BUSY_MARK in title for title in look_at(main, group_of(main)).workers.values())

    wait_for(at_it, seconds=20, what="the long task to run")
    worker.process.terminate()
    assert worker.process.wait(timeout=STOP_SECONDS + 5) == 0
    assert group_of(main) == []


def latest(home: Path, query: str) -> str:
    """A time as the database writes it; empty when there is none yet."""
    found = ask(home, query)
    return str(found[0][0]) if found else ""


def wait_for_log(platform: Platform, job_id: str, words: str) -> None:
    wait_for(
        lambda: words in platform.job(job_id)["logs"],
        seconds=120,
        what=f"{words!r} in the log; {platform.job(job_id)}",
    )


def cut_power(platform: Platform, engine: Engine) -> None:
    """SIGKILL to every process of the platform and to its containers."""
    services = {each.pid for each in processes() if each.parent == platform.process.pid}
    tree = [each.pid for each in processes() if each.session in services]
    for pid in [platform.process.pid, *tree]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    platform.process.wait(timeout=30)
    for state in engine.find({"mlops.installation": platform.installation_id}):
        engine.kill(state.id)


def reasons(home: Path) -> list[str]:
    """Why each attempt ended, the first attempt first."""
    return [row[0] for row in ask(home, "SELECT reason FROM training_attempt ORDER BY number")]


def has_queued(home: Path) -> bool:
    """Whether a job waits and tasks too; what they are is signed and packed in their payload."""
    waiting = ask(home, "SELECT status FROM training_job WHERE status = 'queued'")
    return bool(waiting) and len(ask(home, "SELECT id FROM django_q_ormq")) > 0


def ask(home: Path, query: str) -> list[tuple]:
    with sqlite3.connect(home / "db" / "platform.sqlite3", timeout=20) as database:
        return database.execute(query).fetchall()
