"""A whole platform on PostgreSQL and Redis, and what it makes of their restarts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.servers import PostgresqlServer, RedisServer, postgresql, redis_server
from deploy.testing import ROAD_SUFFIX, remove_installation
from deploy.trial import (
    CONTRACT_SCRIPT,
    Platform,
    TrialFailed,
    start_platform,
    stop_platform,
    wait_for,
)
from mlops_site import queues
from mlops_site.queues import QueueWatch
from sandbox.engine import Engine

ROWS = [[0.1 * column for column in range(20)]]
ENDS = "raise SystemExit(7)\n"
ENDED = "The script ended with exit code 7."
# Its number of attempts tells whether it was run again; `/data` is the installation's own folder.
WAITS = """\
import os, time
print("it is up", flush=True)
while not os.path.exists("/data/{name}"):
    time.sleep(0.1)
print("it went on")
raise SystemExit(7)
"""
RECOVERY_SECONDS = 60
JOBS_UNDER_WAY = 4
CUTS = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    with postgresql(tmp_path_factory.mktemp("backing") / "postgresql") as server:
        yield server


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("backing") / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def platform(
    rows: PostgresqlServer,
    queue: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Engine,
    installation_id: str,
) -> Iterator[Platform]:
    """Instead of the one on SQLite that the other roads share."""
    home = tmp_path_factory.mktemp("backed") / "var"
    name = f"{installation_id}{ROAD_SUFFIX[:2]}4"
    variables = {"DATABASE_URL": rows.url, "REDIS_URL": queue.url}
    try:
        started = start_platform(home, name, variables=variables)
        try:
            yield started
        finally:
            print(stop_platform(started))
    finally:
        remove_installation(engine, name)


def secrets_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if entry)


def is_ready(platform: Platform) -> bool:
    return platform.get("/mlops/ready").status_code == 200


def predict(platform: Platform) -> int:
    body = {"model_name": "backed", "model_version": "1", "inputs": ROWS}
    return platform.post("/mlops/inference", body).status_code


def waiting_job(platform: Platform, name: str) -> str:
    """A job whose script runs until `go_on` of that name."""
    job_id = platform.upload(WAITS.format(name=name))
    wait_for(
        lambda: "it is up" in platform.job(job_id)["logs"], seconds=120, what="the script to run"
    )
    return job_id


def go_on(platform: Platform, name: str) -> None:
    (platform.home / "data" / name).touch()


def test_the_contracts_example_is_trained_and_its_model_answers(
    platform: Platform, rows: PostgresqlServer
):
    job = platform.run(
        CONTRACT_SCRIPT.read_text(), model_name="backed", requirements=["scikit-learn"]
    )
    assert job["status"] == "completed", job
    assert predict(platform) == 200
    assert rows.ask("SELECT status FROM training_job") == [("completed",)]
    assert not (platform.home / "db" / "platform.sqlite3").exists()
    ready = platform.get("/mlops/ready").json()
    assert (ready["database"], ready["parts"]["database"]) == ("PostgreSQL", True)


def test_what_is_used_is_said_without_its_password(
    platform: Platform, rows: PostgresqlServer, queue: RedisServer
):
    said = platform.log.read_text()
    for server in (rows, queue):
        scheme, _, rest = server.url.partition("://")
        credentials, _, place = rest.partition("@")
        assert f"{scheme}://{place}" in said
        assert credentials.rpartition(":")[2] not in platform.said()


def test_only_who_works_on_the_queue_can_reach_it(platform: Platform, queue: RedisServer):
    pids = platform.processes()
    web, mlflow = secrets_of(pids["web"]), secrets_of(pids["mlflow"])
    worker, supervisor = secrets_of(pids["worker"]), secrets_of(pids["supervisor"])
    assert worker["REDIS_URL"] == supervisor["REDIS_URL"] == queue.url
    key = worker["MLOPS_SECRET_KEY"]
    for environment in (web, mlflow):
        assert "REDIS_URL" not in environment
        assert queue.url not in environment.values()
        assert key not in environment.values()
    assert "DATABASE_URL" in web
    assert "DATABASE_URL" not in mlflow


def test_the_queue_has_a_name_of_its_own_in_a_redis_that_others_use_too(
    platform: Platform, queue: RedisServer
):
    name = f"django_q:mlops-{platform.installation_id}:q"
    with queue.client.monitor() as monitor:
        asked = (each["command"] for each in monitor.listen())
        command = next(each for each in asked if each.upper().startswith(("BLPOP", "RPUSH")))
    assert name in command
    assert "blpop" in {client["cmd"] for client in queue.client.client_list()}


def test_a_restart_of_both_in_the_middle_loses_nothing(
    platform: Platform, rows: PostgresqlServer, queue: RedisServer
):
    job_id = waiting_job(platform, "restart")
    before = platform.processes()
    rows.server.kill()
    queue.server.kill()
    try:
        answer = platform.get("/mlops/ready")
        assert answer.status_code == 503
        told = answer.json()["details"]["database"]["detail"]
        assert told.startswith("PostgreSQL does not answer")
        refused = platform.get(f"/mlops/training/jobs/{job_id}")
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        refused = platform.get("/mlops/training/jobs")
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        # What is on its fast path asks no row.
        assert predict(platform) == 200
    finally:
        rows.start()
        queue.start()
    go_on(platform, "restart")
    job = platform.ended(job_id)
    assert (job["error"], job["attempt"]) == (ENDED, 1)
    assert job["logs"].splitlines()[-1] == "it went on"
    assert platform.run(ENDS)["error"] == ENDED
    wait_for(lambda: is_ready(platform), seconds=RECOVERY_SECONDS, what="readiness")
    after = platform.processes()
    assert (after["web"], after["mlflow"]) == (before["web"], before["mlflow"])


def test_connections_that_are_cut_off_under_load_lose_nothing(
    platform: Platform, rows: PostgresqlServer
):
    job_ids = [platform.upload(ENDS) for _ in range(JOBS_UNDER_WAY)]
    cut = []

    def cut_often_enough() -> bool:
        cut.append(rows.cut_everybody_off())
        return len(cut) == CUTS

    wait_for(cut_often_enough, seconds=60, what="cuts", every=1.0)
    assert min(cut) > 0, "nobody was connected, so nothing was cut off"
    for job_id in job_ids:
        job = platform.ended(job_id)
        assert (job["status"], job["error"]) == ("failed", ENDED), job
    assert platform.run(ENDS)["error"] == ENDED


def test_tasks_that_redis_lost_are_asked_for_again(platform: Platform, queue: RedisServer):
    job_id = waiting_job(platform, "lost")
    queue.stop()
    go_on(platform, "lost")

    def end_is_due() -> bool:
        log = platform.home / "logs" / "supervisor.log"
        return "queue.task_dropped" in log.read_text()

    wait_for(end_is_due, seconds=30, what="a task that could not be queued")
    with pytest.raises(TrialFailed):
        wait_for(
            lambda: platform.job(job_id)["status"] != "running", seconds=2, what="an end by itself"
        )
    queue.start()
    job = platform.ended(job_id)
    assert (job["error"], job["attempt"]) == (ENDED, 1)
    assert "queue.forgot" in (platform.home / "logs" / "supervisor.log").read_text()


@pytest.fixture
def watch(queue: RedisServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> QueueWatch:
    settings.REDIS_URL = queue.url
    monkeypatch.setattr(queues, "get_broker", lambda: queues.RedisQueue("watched"))
    return QueueWatch()


def test_a_redis_that_lost_what_it_held_is_noticed_once(watch: QueueWatch, queue: RedisServer):
    assert watch.has_forgotten()  # who starts now does not know what was there before
    assert not watch.has_forgotten()
    queue.client.flushall()
    assert watch.has_forgotten()
    assert not watch.has_forgotten()
    queue.stop()
    assert not watch.has_forgotten()
    queue.start()
    assert watch.has_forgotten()
    assert not watch.has_forgotten()
