"""Waiting containers over real rows: who gets one, and what is left when somebody dies."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from unittest import mock

import pytest
from django.urls import reverse
from django.utils import timezone

from sandbox.engine import EngineError, EngineUnavailable, SandboxMismatch
from tests.unit.job_world import ENVIRONMENT, Fault, World
from training.models import Attempt, Job, WaitingContainer
from training.services import claim, observe, waiting
from training.states import Network, Status

pytestmark = pytest.mark.django_db
State = WaitingContainer.State
STEPS = ["change_limits", "readback", "give"]
MORE_MEMORY = 4096


@pytest.fixture
def world() -> Iterator[World]:
    """A job has run in the one environment, and two containers wait for the next."""
    with World(waiting=2) as made:
        run(made)
        made.fill_pool()
        made.fill_pool()
        made.engine.starts.clear()
        made.engine.orders.clear()
        yield made


def run(world: World, **changed) -> Attempt:
    """Until its script runs and has ended well."""
    job = world.submit(**changed)
    world.launch()
    attempt = world.attempt_of(job)
    if attempt.container_started_at is not None:
        end(world, attempt)
    return attempt


def end(world: World, attempt: Attempt) -> None:
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.finish(attempt)


def ready() -> list[str]:
    found = WaitingContainer.objects.filter(state=State.READY)
    return list(found.values_list("container_id", flat=True))


def begun(world: World) -> Counter[str]:
    """How often each attempt's script has begun, in either kind of container."""
    return Counter(attempt for orders in world.engine.orders.values() for attempt in orders)


def test_a_job_runs_in_a_container_that_waited_for_it(world: World):
    waited = ready()
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    assert attempt.container_id == waited[0]
    assert not world.engine.starts
    assert timezone.now() - attempt.container_started_at < timedelta(seconds=5)
    end(world, attempt)
    job.refresh_from_db()
    assert job.status == Status.COMPLETED
    assert set(world.engine.containers) == {waited[1]}
    assert ready() == [waited[1]]


def test_the_time_of_a_script_counts_from_its_order(world: World):
    early = timezone.now() - timedelta(hours=1)
    waited = ready()[0]
    world.engine._change(waited, started_at=early)
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    end(world, attempt)
    attempt.refresh_from_db()
    assert attempt.container_id == waited
    assert attempt.container_started_at > early + timedelta(minutes=59)
    assert attempt.reason == "succeeded"


def test_what_a_container_used_while_it_waited_is_not_the_jobs(world: World):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    observe.note_usage(attempt, memory_bytes=1, cpu_seconds=5.0)
    attempt.refresh_from_db()
    assert attempt.cpu_seconds == pytest.approx(3.0)


def test_another_one_comes_for_the_one_that_was_taken(world: World):
    run(world)
    assert len(ready()) == 1
    world.fill_pool()
    assert len(ready()) == 2
    assert waiting.missing() is None


def test_none_is_made_while_a_job_is_on_its_way(world: World):
    run(world)
    assert waiting.missing() == ENVIRONMENT.key
    world.submit()
    assert waiting.missing() is None


def test_limits_that_differ_are_set_before_the_order(world: World):
    with mock.patch.object(world.engine, "change_limits") as change:
        job = world.submit()
        Job.objects.filter(pk=job.pk).update(memory_mb=MORE_MEMORY)
        world.launch()
    (container_id, spec), _ = change.call_args
    assert spec.limits.memory_mb == MORE_MEMORY
    assert world.attempt_of(job).container_id == container_id


def test_a_job_with_less_memory_gets_a_container_of_its_own(world: World):
    job = world.submit()
    Job.objects.filter(pk=job.pk).update(memory_mb=256)
    world.launch()
    assert world.engine.starts == {str(world.attempt_of(job).pk): 1}
    assert len(ready()) == 2


@pytest.mark.parametrize(
    "error", [EngineError("refused"), SandboxMismatch(["HostConfig.Memory"])], ids=str
)
@pytest.mark.parametrize("call", ["change_limits", "readback"])
def test_one_that_is_not_as_it_should_be_costs_the_job_nothing(world: World, call: str, error):
    waited = ready()
    job = world.submit()
    Job.objects.filter(pk=job.pk).update(memory_mb=MORE_MEMORY)
    world.launch(Fault(call, error=error))
    attempt = world.attempt_of(job)
    assert attempt.number == 1
    assert begun(world) == {f"{job.pk}/1": 1}
    assert attempt.container_id not in waited
    assert waited[0] not in world.engine.containers


def test_one_that_was_removed_by_somebody_costs_the_job_nothing(world: World):
    for container_id in ready():
        world.engine.remove(container_id)
    job = world.submit()
    world.launch()
    assert world.engine.starts == {str(world.attempt_of(job).pk): 1}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [*STEPS, "user"])
def test_a_worker_that_dies_in_the_hand_over_loses_nothing(world: World, call: str, after: bool):
    waited = ready()
    job = world.submit()
    Job.objects.filter(pk=job.pk).update(memory_mb=MORE_MEMORY)
    world.launch(world.dies(call, after=after))
    first = world.attempt_of(job)
    world.leases_run_out()
    world.reconcile()
    first.refresh_from_db()
    if call == "give" and after:
        # The order was there: the script runs, and the supervisor has it now.
        assert first.finished_at is None
        assert first.container_id == waited[0]
        end(world, first)
    else:
        assert first.reason == "worker_lost"
        assert (waited[0] in world.engine.containers) == (call == "user")
        world.all_becomes_well()
    job.refresh_from_db()
    assert job.status in (Status.COMPLETED, Status.FAILED)
    assert max(begun(world).values()) == 1
    assert all(len(orders) == 1 for orders in world.engine.orders.values())
    assert set(world.engine.containers) == set(ready())
    assert not world.registry.users


@pytest.mark.parametrize("call", STEPS)
def test_a_worker_that_slept_through_its_lease_hands_nothing_over(world: World, call: str):
    job = world.submit()
    Job.objects.filter(pk=job.pk).update(memory_mb=MORE_MEMORY)
    world.launch(world.loses_its_lease(call))
    world.all_becomes_well()
    assert max(begun(world).values()) == 1
    assert set(world.engine.containers) == set(ready())


def test_an_engine_that_goes_with_the_order_costs_an_attempt(world: World):
    job = world.submit()
    world.launch(Fault("give", error=EngineUnavailable("away")))
    assert world.attempt_of(job).reason == "engine_unavailable"
    world.all_becomes_well()
    assert max(begun(world).values()) == 1


def test_switched_off_there_are_none(world: World, settings):
    settings.WAITING_CONTAINERS = 0
    assert waiting.missing() is None
    job = world.submit()
    world.launch()
    assert world.engine.starts == {str(world.attempt_of(job).pk): 1}
    world.reconcile()
    assert not WaitingContainer.objects.exists()


def test_those_of_another_shape_image_or_time_are_given_up(world: World, settings):
    for change in (
        lambda: setattr(settings, "JOB_SCRATCH_MB", settings.JOB_SCRATCH_MB + 1),
        lambda: setattr(settings, "JOBS_NETWORK", "another"),
        lambda: setattr(world.engine, "image", "another"),
        lambda: WaitingContainer.objects.update(created_at=timezone.now() - waiting.AGE_MAX * 2),
        lambda: Job.objects.update(created_at=timezone.now() - waiting.USED_LATELY * 2),
    ):
        assert len(ready()) == 2
        change()
        world.reconcile()
        assert not WaitingContainer.objects.exists()
        assert not world.engine.containers
        Job.objects.update(created_at=timezone.now())
        world.fill_pool()
        world.fill_pool()


def test_they_are_free_memory_and_go_first_when_it_is_short(world: World, settings, monkeypatch):
    monkeypatch.setattr("training.supervisor._free_memory_mb", lambda: 10_000)
    world.measure()
    assert world.room().memory_free_mb == 10_000 + 2 * waiting.MEMORY_MB
    monkeypatch.setattr("training.supervisor._free_memory_mb", lambda: waiting.MEMORY_MB)
    world.measure()
    assert not ready()
    assert not world.engine.containers
    assert waiting.missing() is None


def test_they_are_no_part_of_what_jobs_were_promised(world: World):
    there = claim.room_left()
    waiting.give_up_all(world.engine)
    assert claim.room_left() == there


def test_none_is_left_when_the_platform_stops(world: World):
    world.stop_everything()
    assert not world.engine.containers
    assert not WaitingContainer.objects.exists()


@pytest.mark.parametrize("call", ["create", "start", "ready"])
def test_a_worker_that_dies_as_it_makes_one_leaves_nothing(world: World, call: str):
    waiting.give_up_all(world.engine)
    world.fill_pool(world.dies(call, after=call != "ready"))
    WaitingContainer.objects.update(created_at=timezone.now() - waiting.STARTING_MAX * 2)
    world.reconcile()
    assert not world.engine.containers
    assert not WaitingContainer.objects.exists()
    world.fill_pool()
    assert len(ready()) == 1


def test_one_without_a_row_is_removed(world: World):
    WaitingContainer.objects.all().delete()
    world.reconcile()
    assert not world.engine.containers


def test_a_job_without_network_gets_a_container_of_its_own(world: World):
    job = world.submit()
    Job.objects.filter(pk=job.pk).update(network=Network.NONE)
    world.launch()
    assert world.engine.starts == {str(world.attempt_of(job).pk): 1}
    assert len(ready()) == 2


def test_operators_see_which_ones_wait_for_what_and_cannot_touch_them(world: World, admin_client):
    rows = WaitingContainer.objects.filter(attempt=None)
    page = admin_client.get(reverse("admin:training_waitingcontainer_changelist"))
    shown = page.content.decode()
    for waiting_one in rows:
        assert waiting_one.container_id[:12] in shown
    assert "nobody yet" in shown
    assert "MLflow only" in shown
    first = reverse("admin:training_waitingcontainer_change", args=[rows[0].pk])
    assert admin_client.get(first).status_code == 200
    assert admin_client.post(first, {"state": "taken"}).status_code == 403
