"""What killed processes leave, made on purpose and seen gone."""

import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from inference.models import ModelServer
from inference.services import claims, pool, starting
from inference.services import rows as server_rows
from inference.services import watching as servers
from mlops_site.daily import DailyWork
from mlops_site.models import RETENTION, Heartbeat
from registry.mlflow_client import RegistryRefused
from sandbox import holders
from tests.fixtures.jobs import an_attempt
from training import leftovers
from training.containers import user_name
from training.leftovers import Leftovers
from training.services import observe

pytestmark = pytest.mark.django_db


class Users:
    """An MLflow that has users and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def user_names(self) -> list[str]:
        return list(self.names)

    def delete_job_user(self, name: str) -> None:
        self.names.remove(name)


@pytest.fixture
def queued(monkeypatch) -> list[tuple]:
    """What was put into the queue during the test."""
    tasks: list[tuple] = []

    def put(*task: object, **_: object) -> None:
        tasks.append(task)

    monkeypatch.setattr("inference.services.watching.async_task", put)
    monkeypatch.setattr("mlops_site.daily.async_task", put)
    return tasks


def look_for_users(users: Users, monkeypatch) -> None:
    monkeypatch.setattr(leftovers, "model_registry", lambda: users)
    Leftovers(engine=None).remove_forgotten_users()


def test_users_of_attempts_that_are_over_or_unknown_are_deleted(monkeypatch):
    alive, over = an_attempt(), an_attempt(ended=True)
    for attempt in (alive, over):
        attempt.mlflow_username = user_name(attempt)
        attempt.save()
    unknown = user_name(alive)
    somebody_elses = "job-another-installation-1234-1-abc"
    users = Users("admin", "job", alive.mlflow_username, over.mlflow_username, unknown)
    users.names.append(somebody_elses)
    look_for_users(users, monkeypatch)
    assert users.names == ["admin", "job", alive.mlflow_username, somebody_elses]


def test_an_mlflow_that_lists_nobody_is_left_alone(monkeypatch):
    users = Users("admin")

    def refuse() -> list[str]:
        raise RegistryRefused("no such list")

    monkeypatch.setattr(users, "user_names", refuse)
    look_for_users(users, monkeypatch)


def test_what_a_dead_process_held_is_free_at_once(monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    owners = {
        "dead": f"{host}:{ended.pid}",
        "alive": f"{host}:{os.getpid()}",
        "elsewhere": f"another-host:{ended.pid}",
        "supervisor": "supervisor",
    }
    attempts = {name: an_attempt() for name in owners}
    for name, attempt in attempts.items():
        attempt.lease_owner = owners[name]
        attempt.container_started_at = timezone.now()
        attempt.save()
    assert observe.unattended() == [attempts["dead"]]


def a_server(**values) -> ModelServer:
    now = timezone.now()
    return ModelServer.objects.create(
        model_name="m", version="1", created_at=now, changed_at=now, **values
    )


def test_a_server_whose_starter_died_is_asked_for_again(queued: list[tuple]):
    long_ago = timezone.now() - timedelta(minutes=5)
    server = a_server(status="starting", queued_at=long_ago, claim_expires_at=long_ago)
    servers.dispatch()
    assert queued == [("inference.tasks.start_server", server.pk)]
    servers.dispatch()
    assert len(queued) == 1


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen]:
    """A process of this host that lives until it is killed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def claimed_by(process: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """A server that this process has begun to start, by the service itself, and its token."""
    server = a_server(status="starting", queued_at=timezone.now())
    with monkeypatch.context() as patched:
        patched.setattr(holders, "me", lambda: f"{socket.gethostname()}:{process.pid}")
        return server, server_rows.claim(server.pk)


def test_a_server_whose_starter_was_killed_is_the_next_workers_at_once(
    starter: subprocess.Popen, queued: list[tuple], monkeypatch: pytest.MonkeyPatch
):
    server, claim = claimed_by(starter, monkeypatch)
    servers.dispatch()
    assert queued == []
    assert server_rows.claim(server.pk) is None
    starter.kill()
    starter.wait()
    servers.dispatch()
    assert queued == [("inference.tasks.start_server", server.pk)]
    servers.dispatch()
    assert len(queued) == 1
    assert server_rows.claim(server.pk) not in (None, claim)


def test_late_news_of_a_starter_that_lost_its_server_is_dropped(
    starter: subprocess.Popen, queued: list[tuple], monkeypatch: pytest.MonkeyPatch
):
    server, old = claimed_by(starter, monkeypatch)
    starter.kill()
    starter.wait()
    servers.dispatch()
    for news in ({"phase": "loading"}, {"status": "ready", "address": "a:1", "container_id": "c"}):
        with pytest.raises(server_rows.ClaimLost):
            server_rows.write(server.pk, old, **news)
    new = server_rows.claim(server.pk)
    claims._renew(server_rows._held(server.pk, old), "server")
    with pytest.raises(server_rows.ClaimLost):
        server_rows.write(server.pk, old, phase="loading")
    server_rows.write(server.pk, new, phase="preparing")
    server.refresh_from_db()
    assert (server.status, server.phase, server.claim) == ("starting", "preparing", new)
    assert server.claim_owner == holders.me()


def test_a_claim_of_another_host_runs_out_by_itself(queued: list[tuple]):
    server = a_server(
        status="starting",
        queued_at=timezone.now() - timedelta(minutes=5),
        claim_owner="another-host:1",
        claim_expires_at=timezone.now() + timedelta(seconds=30),
    )
    servers.dispatch()
    assert queued == []
    ModelServer.objects.update(claim_expires_at=timezone.now() - timedelta(seconds=1))
    servers.dispatch()
    assert queued == [("inference.tasks.start_server", server.pk)]


def test_a_starter_that_lost_its_server_touches_no_container(
    queued: list[tuple], monkeypatch: pytest.MonkeyPatch
):
    """One of the same name may be another worker's by now."""
    server = a_server(status="starting")
    claim = server_rows.claim(server.pk)
    ran: list[object] = []
    environment = SimpleNamespace(key="k", image="image")
    monkeypatch.setattr(starting.containers, "environment_of", lambda *_, **__: environment)
    version = SimpleNamespace(source="models:/m-1")
    monkeypatch.setattr(starting, "_version", lambda *_: version)
    monkeypatch.setattr(starting.containers, "run", lambda **_: ran.append(1))
    monkeypatch.setattr(starting.engine_room, "network_problem", lambda: "")

    def lost_meanwhile(*_: object, **__: object) -> None:
        ModelServer.objects.update(claim=uuid.uuid4())

    monkeypatch.setattr(starting.model_files, "model_folder", lost_meanwhile)
    with pytest.raises(server_rows.ClaimLost):
        starting._start_anew(server, claim, engine=None, registry=None)
    assert ran == []


def test_no_server_starts_while_nobody_knows_that_the_firewall_holds(
    monkeypatch: pytest.MonkeyPatch,
):
    """As no job does; the next request may try again."""
    server = a_server(status="starting")
    version = SimpleNamespace(source="models:/m-1")
    ran: list[object] = []
    for module, name, answer in (
        (starting, "_version", version),
        (starting.containers, "environment_of", None),
        (starting.model_files, "model_folder", None),
        (starting, "model_registry", None),
        (starting.engine_room, "engine", None),
        (starting.engine_room, "environments", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(starting.containers, "run", lambda **_: ran.append(1))
    starting.start_server(server.pk)
    server.refresh_from_db()
    assert (server.status, server.reason, ran) == ("failed", "network_not_held", [])
    assert server.reason in {"network_not_held"}


def test_a_server_whose_starter_lives_is_left_to_it(queued: list[tuple]):
    now = timezone.now()
    a_server(
        status="starting",
        queued_at=now - timedelta(minutes=5),
        claim_expires_at=now + timedelta(seconds=30),
    )
    servers.dispatch()
    assert queued == []


@pytest.mark.parametrize("status", ["starting", "ready", "stopping"])
def test_every_server_ends_as_stopped_when_the_platform_stops(status: str, queued: list[tuple]):
    server = a_server(
        status=status,
        container_id="c",
        address="a:1",
        token="t",
        claim_expires_at=timezone.now() + timedelta(minutes=1),
    )
    assert pool.end_all() == 1
    server.refresh_from_db()
    assert server.status == "stopped"
    assert (server.container_id, server.address, server.token) == ("", "", "")
    assert server.claim_expires_at is None
    servers.dispatch()
    assert queued == []


def test_daily_work_is_asked_for_once_until_it_was_done_a_day_ago(queued: list[tuple]):
    work = DailyWork()
    work.ask()
    work.ask()
    assert len(queued) == 1
    Heartbeat.beat(RETENTION)
    DailyWork().ask()
    assert len(queued) == 1
    Heartbeat.objects.update(beaten_at=timezone.now() - timedelta(hours=25))
    DailyWork().ask()
    assert len(queued) == 2


def test_only_some_servers_start_at_once_and_those_wanted_longest_first(queued: list[tuple]):
    now = timezone.now()
    rows = [
        ModelServer.objects.create(
            model_name="m",
            version=str(number),
            status="starting",
            created_at=now,
            changed_at=now - timedelta(seconds=number),
        )
        for number in range(1, 5)
    ]
    servers.dispatch()
    servers.dispatch()
    assert [pk for _, pk in queued] == [rows[3].pk, rows[2].pk]
    ModelServer.objects.filter(pk=rows[3].pk).update(status="stopped")
    servers.dispatch()
    assert [pk for _, pk in queued][2:] == [rows[1].pk]
