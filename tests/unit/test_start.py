"""A start in a container of its own: MLflow's part runs beside the engine's; either may fail."""

import pytest

from sandbox.engine import EngineError, EngineUnavailable
from tests.unit.job_world import Beside, BesideAtLast, Fault, World
from training.services import waiting
from training.states import Status

pytestmark = pytest.mark.django_db
STEPS = ["experiment", "user", "create", "attach", "give", "start", "answer"]


@pytest.fixture(params=[Beside, BesideAtLast], ids=["MLflow first", "MLflow last"])
def world(request):
    with World(beside=request.param) as made:
        yield made


def nothing_is_left(world: World) -> bool:
    return not world.engine.containers and not world.registry.users


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", STEPS)
def test_a_worker_that_dies_on_the_way_doubles_and_leaves_nothing(
    world: World, call: str, after: bool
):
    job = world.submit()
    world.launch(world.dies(call, after=after))
    first = world.attempt_of(job)
    world.leases_run_out()
    world.reconcile()
    first.refresh_from_db()
    # Only an order that was given is a script that ran.
    assert (first.finished_at is None) == bool(world.engine.starts)
    world.all_becomes_well()
    job.refresh_from_db()
    assert job.status in (Status.COMPLETED, Status.FAILED)
    assert max(world.engine.starts.values()) == 1
    assert nothing_is_left(world)


@pytest.mark.parametrize("call", STEPS)
def test_a_worker_that_slept_through_its_lease_starts_nothing(world: World, call: str):
    world.submit()
    world.launch(world.loses_its_lease(call))
    world.all_becomes_well()
    assert max(world.engine.starts.values()) == 1
    assert nothing_is_left(world)


@pytest.mark.parametrize("error", [EngineError("no"), EngineUnavailable("away")], ids=str)
@pytest.mark.parametrize("call", ["create", "attach", "give", "start", "answer"])
def test_an_engine_that_fails_leaves_no_user_and_no_container(world: World, call: str, error):
    job = world.submit()
    world.launch(Fault(call, error=error))
    assert world.attempt_of(job).reason == "engine_unavailable"
    assert nothing_is_left(world)


@pytest.mark.parametrize("call", ["experiment", "user"])
def test_an_mlflow_that_fails_leaves_no_container(world: World, call: str):
    job = world.submit()
    world.launch(Fault(call, error=world.registry_is_away()))
    assert world.attempt_of(job).reason == "tracking_unavailable"
    assert nothing_is_left(world)
    assert not world.engine.starts


def test_a_container_without_an_order_is_no_script_that_runs():
    """Its worker was killed between the start and the order."""
    with World(beside=BesideAtLast) as world:
        job = world.submit()
        world.launch(world.dies("start", after=True))
        assert len(world.engine.running()) == 1
        world.leases_run_out()
        world.reconcile()
        assert world.attempt_of(job).reason == "worker_lost"
        assert not world.engine.containers


def test_an_order_that_waited_for_its_container_is_a_script_that_runs():
    """Its worker was killed just after the start: nothing is lost, and nothing begins twice."""
    with World(beside=Beside) as world:
        job = world.submit()
        world.launch(world.dies("start", after=True))
        world.leases_run_out()
        world.reconcile()
        assert world.attempt_of(job).finished_at is None
        world.all_becomes_well()
        assert list(world.engine.starts.values()) == [1]


def test_a_password_is_in_no_containers_configuration(world: World):
    specs = []
    make = world.engine.make
    world.engine.make = lambda spec: specs.append(spec) or make(spec)
    job = world.submit(environment=(("DATABASE_PASSWORD", "hidden"),))
    world.launch()
    (spec,) = specs
    told = str(spec.create_arguments())
    assert "hidden" not in told
    assert "PASSWORD" not in told
    assert world.attempt_of(job).container_started_at is not None
    assert waiting.missing() is None
