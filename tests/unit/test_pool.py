"""Rows of model servers as policies, crashes and the platform's own stops want them."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference import containers
from inference.failures import StartFailed
from inference.models import AliasChange, ModelServer
from inference.services import pool, rows, starting, watching
from inference.services.policy import Policy, default_policy, set_policy
from inference.states import CRASHES_MOST, MEANINGS, Reason, backoff_seconds
from sandbox.engine import ContainerState
from tests.fixtures.containers import container_state

pytestmark = pytest.mark.django_db(transaction=True)


def a_server(**fields: Any) -> ModelServer:
    now = timezone.now()
    made: dict[str, Any] = {
        "model_name": "churn",
        "version": "1",
        "status": "ready",
        "container_id": "c",
        "address": "a:1",
        "memory_mb": 1024,
        "cpus": 1.0,
        "created_at": now,
        "changed_at": now,
        "ready_at": now,
        "last_used_at": now,
        **fields,
    }
    return ModelServer.objects.create(**made)


def policy(**fields: Any) -> Policy:
    known = {**vars(default_policy()), **fields}
    return set_policy("churn", Policy(**known), actor="me")


def statuses() -> list[tuple[int, str, str]]:
    found = ModelServer.objects.order_by("replica")
    return list(found.values_list("replica", "status", "reason"))


class StubEngine:
    def read_logs(self, container_id: str) -> bytes:
        return b"loading\nmodel_server: ModuleNotFoundError: No module named 'xgboost'\n"


def state(**fields: Any) -> ContainerState:
    return container_state(**{"status": "exited", "running": False, "exit_code": 1, **fields})


# -- how many -------------------------------------------------------------------------------------
def test_one_more_server_starts_only_within_the_policy() -> None:
    a_server()
    assert not pool.ask_for_more("churn", "1")
    policy(max_servers=2)
    assert pool.ask_for_more("churn", "1")
    assert not pool.ask_for_more("churn", "1")
    assert [(number, status) for number, status, _ in statuses()] == [(1, "ready"), (2, "starting")]


def test_an_idle_server_stops_but_for_what_the_policy_keeps() -> None:
    long_ago = timezone.now() - timedelta(hours=2)
    a_server(last_used_at=long_ago)
    a_server(replica=2, last_used_at=long_ago)
    policy(min_servers=1, max_servers=2, idle_seconds=60)
    watching.balance()
    assert statuses() == [(1, "ready", ""), (2, "stopping", "idle")]


def test_a_pinned_server_never_idles() -> None:
    a_server(last_used_at=timezone.now() - timedelta(days=2))
    policy(pinned=True, idle_seconds=60)
    watching.balance()
    assert statuses() == [(1, "ready", "")]


def test_the_newest_version_has_as_many_servers_as_the_policy_wants_at_least() -> None:
    a_server(version="9", status="stopped")
    a_server(version="10", status="stopped")
    policy(min_servers=1)
    watching.balance()
    assert ModelServer.objects.get(version="10").status == "starting"
    assert ModelServer.objects.get(version="9").status == "stopped"


def test_a_version_that_an_alias_names_is_kept_like_the_newest_and_any_other_is_not() -> None:
    long_ago = timezone.now() - timedelta(hours=2)
    for version in ("1", "2", "3"):
        a_server(version=version, last_used_at=long_ago)
    a_server(version="4", status="stopped")
    for alias, version in (("champion", "1"), ("champion", "2"), ("old", "3"), ("old", "")):
        AliasChange.objects.create(
            model_name="churn", alias=alias, version=version, how="set", at=timezone.now()
        )
    policy(min_servers=1, idle_seconds=60)
    watching.balance()
    found = ModelServer.objects.order_by("version").values_list("version", "status")
    assert dict(found) == {"1": "stopping", "2": "ready", "3": "stopping", "4": "starting"}


def test_a_version_with_an_alias_is_started_where_it_never_ran() -> None:
    a_server(version="2")
    AliasChange.objects.create(
        model_name="churn", alias="champion", version="1", how="set", at=timezone.now()
    )
    policy(min_servers=1)
    watching.balance()
    assert ModelServer.objects.get(version="1").status == "starting"


def test_a_server_with_other_limits_goes_only_after_its_successor_was_ready_for_a_while() -> None:
    a_server()
    policy(memory_mb=2048)
    watching.balance()
    watching.balance()
    assert [status for _, status, _ in statuses()] == ["ready", "starting"]
    ModelServer.objects.filter(replica=2).update(
        status="ready",
        memory_mb=2048,
        cpus=1.0,
        address="a:2",
        container_id="d",
        ready_at=timezone.now(),
    )
    watching.balance()
    assert [status for _, status, _ in statuses()] == ["ready", "ready"]
    settled = timezone.now() - timedelta(seconds=watching.DRAIN_SECONDS + 1)
    ModelServer.objects.filter(replica=2).update(ready_at=settled)
    watching.balance()
    assert statuses() == [(1, "stopping", "replaced"), (2, "ready", "")]


def test_a_successor_that_failed_is_tried_again_after_a_pause_and_the_old_one_serves_on() -> None:
    a_server()
    a_server(replica=2, status="failed", reason="start_timeout", error="Late.", container_id="")
    policy(memory_mb=2048)
    watching.balance()
    assert [status for _, status, _ in statuses()] == ["ready", "failed"]
    ModelServer.objects.filter(replica=2).update(changed_at=timezone.now() - timedelta(minutes=2))
    watching.balance()
    assert [status for _, status, _ in statuses()] == ["ready", "starting"]


# -- room -----------------------------------------------------------------------------------------
def test_room_is_made_by_memory_and_never_from_a_pinned_model(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SERVERS_MEMORY_MB = 2048
    monkeypatch.setattr(starting, "_end_container", lambda name: None)
    old = timezone.now() - timedelta(hours=1)
    a_server(last_used_at=old)
    other = a_server(model_name="other", container_id="d")
    wanting = a_server(model_name="new", status="starting", container_id="", address="")
    policy(pinned=True)
    starting._make_room(wanting.pk, memory_mb=1024)
    other.refresh_from_db()
    assert (other.status, other.reason) == ("stopped", "evicted")
    assert ModelServer.objects.get(model_name="churn").status == "ready"
    with pytest.raises(StartFailed) as failed:
        starting._make_room(wanting.pk, memory_mb=2048)
    assert failed.value.reason == Reason.NO_ROOM


# -- why a server ended ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ended", "loading", "reason"),
    [
        (None, True, "container_gone"),
        (state(oom_killed=True), True, "out_of_memory"),
        (state(exit_code=4), False, "hang"),
        (state(exit_code=137), False, "crashed"),
        (state(exit_code=3), True, "wrong_environment"),
    ],
)
def test_each_end_has_one_reason(ended: ContainerState | None, loading: bool, reason: str) -> None:
    failure = containers.ending(ended, StubEngine(), memory_mb=1024, loading=loading)  # type: ignore[arg-type]
    assert failure.reason == reason
    assert ("xgboost" in failure.log_tail) == (ended is not None)


class StubEngineOfOtherVersions:
    def read_logs(self, container_id: str) -> bytes:
        return b"model_server: it was made with scikit-learn 0.1, and its environment has 1.9: x\n"


def test_a_model_of_other_versions_is_in_the_wrong_environment_and_both_are_said() -> None:
    engine = StubEngineOfOtherVersions()
    failure = containers.ending(state(exit_code=5), engine, memory_mb=1024, loading=True)  # type: ignore[arg-type]
    assert failure.reason == "wrong_environment"
    assert "scikit-learn 0.1, and its environment has 1.9" in failure.sentence


def test_a_server_that_dies_while_it_is_used_is_started_again_and_given_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = a_server()
    for _ in range(CRASHES_MOST):
        ModelServer.objects.update(
            status="ready", container_id="c", address="a:1", not_before=None, reason="", error=""
        )
        server.refresh_from_db()
        watching._end_row(server, StartFailed("crashed", "It ended.", log_tail="boom"))
        server.refresh_from_db()
        if server.crashes == 1:
            assert server.status == "starting"
    assert (server.status, server.reason, server.log_tail) == ("failed", "crash_loop", "boom")
    assert pool.ensure_server("churn", "1").status == "failed"


def test_the_pause_after_ends_in_a_row_grows() -> None:
    pauses = [backoff_seconds(crashes) for crashes in range(1, 12)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300


def test_a_start_that_fails_leaves_its_reason_and_the_last_lines() -> None:
    server = a_server(status="starting", container_id="", address="", queued_at=timezone.now())
    claim = rows.claim(server.pk)
    assert isinstance(claim, uuid.UUID)
    rows.write(server.pk, claim, container_id="c", token="t")
    starting._fail(server.pk, claim, StartFailed("out_of_memory", "Too large.", log_tail="last"))
    server.refresh_from_db()
    assert (server.status, server.reason, server.log_tail) == ("failed", "out_of_memory", "last")
    (shown,) = pool.shown("churn")
    assert "/mlops/models/churn/serving" in shown.hint


def test_what_was_live_when_the_platform_stopped_starts_with_it() -> None:
    a_server()
    a_server(version="2", status="stopped", reason="idle")
    pool.end_all()
    watching.start_what_was_live()
    found = dict(ModelServer.objects.values_list("version", "status"))
    assert found == {"1": "starting", "2": "stopped"}


def test_every_reason_has_words() -> None:
    assert set(MEANINGS) == set(Reason)
    assert all(known.sentence.endswith(".") for known in MEANINGS.values())


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, "1"), (1.0, "1"), (1.9, "1"), (4.0, "4")])
def test_a_servers_libraries_have_a_thread_for_each_whole_cpu(cpus: float, threads: str) -> None:
    assert set(containers.threads_of(cpus).values()) == {threads}
