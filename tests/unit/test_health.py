"""Readiness in words: which part works, since when it does not, and what that means."""

from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from mlops_site import health
from mlops_site.models import QUEUE, SUPERVISOR, WORKER, Heartbeat
from training.models import EngineCapacity, SandboxProof

pytestmark = pytest.mark.django_db


PARTS = ("database", "worker", "supervisor", "queue", "engine", "network", "mlflow")


class Mlflow:
    def __init__(self, available: bool) -> None:
        self._available = available

    def available(self, *, timeout_seconds: float) -> bool:
        return self._available


@pytest.fixture(autouse=True)
def mlflow(monkeypatch):
    monkeypatch.setattr(health, "model_registry", lambda: Mlflow(available=True))


def measure(*, age: float = 0.0, short_of: str = "") -> None:
    EngineCapacity.objects.create(
        engine="local",
        memory_mb=1,
        memory_free_mb=1,
        cpus=1,
        disk_free_mb=1,
        short_of=short_of,
        measured_at=timezone.now() - timedelta(seconds=age),
    )


def prove(*, age: float = 0.0, problem: str = "") -> None:
    SandboxProof.objects.create(
        engine="local", checked_at=timezone.now() - timedelta(seconds=age), problem=problem
    )


def test_a_platform_that_works_says_so(client):
    for name in (WORKER, SUPERVISOR, QUEUE):
        Heartbeat.beat(name)
    measure()
    prove()
    answer = client.get("/mlops/ready")
    assert answer.status_code == 200
    body = answer.json()
    assert body["ready"] is True
    assert body["parts"] == dict.fromkeys(PARTS, True)
    assert body["database"] == connection.display_name
    assert body["details"]["mlflow"] == {"works": True, "age_seconds": None, "detail": ""}
    assert body["details"]["worker"]["age_seconds"] < 5


def test_what_never_started_is_named(client):
    answer = client.get("/mlops/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert [name for name, works in body["parts"].items() if works] == ["database", "mlflow"]
    assert set(body["parts"]) == set(PARTS)
    assert "has not started yet" in body["details"]["worker"]["detail"]


def test_what_is_silent_is_named_with_its_age_and_what_that_means():
    Heartbeat.objects.create(name=WORKER, beaten_at=timezone.now() - timedelta(seconds=90))
    part = health.parts_of_platform()[WORKER]
    assert not part.works
    assert part.detail == ("The worker was last heard of 90 s ago: no job is started or finished.")


def test_an_engine_that_is_away_is_not_ready_and_one_that_is_short_says_of_what():
    measure(age=300)
    part = health.parts_of_platform()["engine"]
    assert (part.works, part.detail) == (
        False,
        "Docker was last measured 300 s ago: it does not answer.",
    )
    EngineCapacity.objects.update(measured_at=timezone.now(), short_of="disk")
    part = health.parts_of_platform()["engine"]
    assert (part.works, part.detail) == (
        True,
        "The disk is nearly full: no new job is started.",
    )


def test_a_queue_that_is_not_reached_any_more_is_said():
    Heartbeat.objects.create(name=QUEUE, beaten_at=timezone.now() - timedelta(seconds=90))
    part = health.parts_of_platform()[QUEUE]
    assert part.detail == "The queue was last reached 90 s ago: no worker is woken."


def test_a_database_that_is_away_is_said_and_nothing_is_claimed_of_what_it_would_tell(
    client, monkeypatch
):
    def away(**_: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(health.connection, "close", lambda: None)  # the test's own transaction
    monkeypatch.setattr(Heartbeat.objects, "filter", away)
    answer = client.get("/mlops/ready")
    assert answer.status_code == 503
    details = answer.json()["details"]
    kind = connection.display_name
    assert details["database"]["detail"] == (
        f"{kind} does not answer: jobs are neither taken nor told of until it does."
    )
    for name in ("worker", "supervisor", "queue", "engine", "network"):
        assert details[name]["detail"] == "Unknown, since the database does not answer."
    assert details["mlflow"]["works"]
    status = client.get("/mlops/status").json()
    assert (status["database"], status["database_available"]) == (kind, False)


def test_mlflow_that_is_away_is_said(monkeypatch):
    monkeypatch.setattr(health, "model_registry", lambda: Mlflow(available=False))
    assert not health.parts_of_platform()["mlflow"].works


def test_heartbeats_are_shown_to_operators_and_cannot_be_changed(admin_client):
    Heartbeat.beat(WORKER)
    page = admin_client.get("/admin/mlops_site/heartbeat/")
    assert page.status_code == 200
    assert "worker" in page.content.decode()
    assert admin_client.get("/admin/mlops_site/heartbeat/add/").status_code == 403


def test_a_network_that_is_not_held_stops_jobs_and_is_said_in_status_and_readiness(client):
    prove(age=90, problem="The host's firewall did not take the rules: no nft")
    told = "The host's firewall did not take the rules: no nft: no new job is started."
    for document in (
        client.get("/mlops/status").json()["network"],
        client.get("/mlops/ready").json()["details"]["network"],
    ):
        assert (document["works"], document["detail"]) == (False, told)
        assert 90 <= document["age_seconds"] < 100


def test_a_proof_that_is_too_old_is_none():
    prove(age=2 * 3600)
    part = health.parts_of_platform()["network"]
    assert not part.works
    assert "last proved 120 minutes ago" in part.detail


def test_in_development_jobs_run_without_the_proof_and_it_is_said(settings):
    settings.DEBUG = True
    part = health.parts_of_platform()["network"]
    assert part.works
    assert "MLOPS_DEBUG=1" in part.detail
