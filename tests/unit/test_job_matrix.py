"""Every state of a job × what may happen in it: each cell with the end that it has to have."""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

import pytest
from django.utils import timezone

from sandbox.engine import EngineError
from tests.unit.job_world import Died, Fault, World
from training.models import Attempt, Job, SupervisorLease
from training.services import observe, rows
from training.services.cancel import AlreadyEnded
from training.states import Intent, Phase, Status

pytestmark = pytest.mark.django_db

ASKED_TO_END = 225
ROUNDS = 20


class State(StrEnum):
    QUEUED = "queued"
    WAITING_AGAIN = "waiting for a retry"
    BUILDING = "building"
    STARTING = "starting"
    TRAINING = "training"
    STOPPING = "stopping, since it printed too much"
    REGISTERING = "registering"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    CANCEL = "cancel"
    DEADLINE = "deadline"
    WORKER_LOST = "worker lost"
    ENGINE_LOST = "engine lost"
    RERUN = "rerun"


class End(NamedTuple):
    """How the job ends, after how many attempts, and what a cancel was answered."""

    reason: str
    attempts: int
    answer: str = ""


S, E = State, Event
# Where a cell differs from what the state leads to anyway, a comment says why.
EXPECTED: dict[tuple[State, Event], End] = {
    (S.QUEUED, E.CANCEL): End("cancelled", 0, "final"),
    (S.QUEUED, E.DEADLINE): End("succeeded", 1),
    (S.QUEUED, E.WORKER_LOST): End("succeeded", 1),
    (S.QUEUED, E.ENGINE_LOST): End("succeeded", 1),
    (S.QUEUED, E.RERUN): End("succeeded", 1),
    (S.WAITING_AGAIN, E.CANCEL): End("cancelled", 1, "final"),
    (S.WAITING_AGAIN, E.DEADLINE): End("succeeded", 2),
    (S.WAITING_AGAIN, E.WORKER_LOST): End("succeeded", 2),
    (S.WAITING_AGAIN, E.ENGINE_LOST): End("succeeded", 2),
    (S.WAITING_AGAIN, E.RERUN): End("succeeded", 2),
    (S.BUILDING, E.CANCEL): End("cancelled", 1, "asked"),
    # The time of a job is the time of its script, which has not begun.
    (S.BUILDING, E.DEADLINE): End("succeeded", 1),
    (S.BUILDING, E.WORKER_LOST): End("succeeded", 2),
    (S.BUILDING, E.ENGINE_LOST): End("succeeded", 2),
    (S.BUILDING, E.RERUN): End("succeeded", 1),
    (S.STARTING, E.CANCEL): End("cancelled", 1, "asked"),
    (S.STARTING, E.DEADLINE): End("succeeded", 1),
    (S.STARTING, E.WORKER_LOST): End("succeeded", 2),
    (S.STARTING, E.ENGINE_LOST): End("succeeded", 2),
    (S.STARTING, E.RERUN): End("succeeded", 1),
    (S.TRAINING, E.CANCEL): End("cancelled", 1, "asked"),
    (S.TRAINING, E.DEADLINE): End("timeout", 1),
    # No worker has a part in a script that runs.
    (S.TRAINING, E.WORKER_LOST): End("succeeded", 1),
    (S.TRAINING, E.ENGINE_LOST): End("succeeded", 2),
    (S.TRAINING, E.RERUN): End("succeeded", 1),
    (S.STOPPING, E.CANCEL): End("cancelled", 1, "asked"),
    # The first decision stands, and it is the user's fault: nothing is tried again.
    (S.STOPPING, E.DEADLINE): End("log_quota", 1),
    (S.STOPPING, E.WORKER_LOST): End("log_quota", 1),
    (S.STOPPING, E.ENGINE_LOST): End("log_quota", 1),
    (S.STOPPING, E.RERUN): End("log_quota", 1),
    # The answer said so: unless its model is registered already.
    (S.REGISTERING, E.CANCEL): End("succeeded", 1, "asked"),
    (S.REGISTERING, E.DEADLINE): End("succeeded", 1),
    (S.REGISTERING, E.WORKER_LOST): End("succeeded", 1),
    (S.REGISTERING, E.ENGINE_LOST): End("succeeded", 1),
    (S.REGISTERING, E.RERUN): End("succeeded", 1),
    (S.COMPLETED, E.CANCEL): End("succeeded", 1, "ended already"),
    (S.COMPLETED, E.DEADLINE): End("succeeded", 1),
    (S.COMPLETED, E.WORKER_LOST): End("succeeded", 1),
    (S.COMPLETED, E.ENGINE_LOST): End("succeeded", 1),
    (S.COMPLETED, E.RERUN): End("succeeded", 1),
    (S.FAILED, E.CANCEL): End("script_error", 1, "ended already"),
    (S.FAILED, E.DEADLINE): End("script_error", 1),
    (S.FAILED, E.WORKER_LOST): End("script_error", 1),
    (S.FAILED, E.ENGINE_LOST): End("script_error", 1),
    (S.FAILED, E.RERUN): End("script_error", 1),
    (S.CANCELLED, E.CANCEL): End("cancelled", 0, "final"),
    (S.CANCELLED, E.DEADLINE): End("cancelled", 0),
    (S.CANCELLED, E.WORKER_LOST): End("cancelled", 0),
    (S.CANCELLED, E.ENGINE_LOST): End("cancelled", 0),
    (S.CANCELLED, E.RERUN): End("cancelled", 0),
}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def test_the_table_has_every_cell():
    assert set(EXPECTED) == {(state, event) for state in State for event in Event}


@pytest.mark.parametrize("cell", EXPECTED, ids=lambda cell: f"{cell[0]} × {cell[1]}")
def test_a_cell_ends_as_the_table_says(world: World, cell: tuple[State, Event]):
    state, event = cell
    job = world.submit()
    if state is State.BUILDING:
        job = _with_requirements(job)
    happening = Happening(world, job, event)
    ENTERED[state](world, job, happening)
    assert happening.seen == STATE_SEEN[state]
    _goes_on(world)
    job.refresh_from_db()
    assert End(job.reason, job.attempts.count(), happening.answer) == EXPECTED[cell]
    assert not world.engine.containers
    assert not world.registry.users
    for again in job.reruns.all():
        assert (again.status, again.attempts.count()) == (Status.COMPLETED, 1)
    assert job.reruns.count() == (1 if event is Event.RERUN else 0)


class Happening:
    """The event, when its moment comes; remembers what the job was at and what was answered."""

    def __init__(self, world: World, job: Job, event: Event) -> None:
        self._world = world
        self._job = job
        self._event = event
        self.seen: tuple[str, str] | None = None
        self.answer = ""

    def __call__(self, *, in_a_worker: bool = False) -> None:
        self._job.refresh_from_db()
        self.seen = (self._job.status, self._job.phase)
        if self._event is Event.CANCEL:
            self._cancel()
        elif self._event is Event.DEADLINE:
            self._world.deadlines_pass()
            self._world.tick()
        elif self._event is Event.ENGINE_LOST:
            self._world.engine_dies()
            self._world.engine.away = True
        elif self._event is Event.RERUN:
            self._world.rerun(self._job)
        elif in_a_worker:
            self._world.dies("").meanwhile()
            raise Died

    def in_a_worker(self, call: str) -> Fault:
        return Fault(call, meanwhile=lambda: self(in_a_worker=True))

    def _cancel(self) -> None:
        try:
            self.answer = "final" if self._world.cancel(self._job) else "asked"
        except AlreadyEnded:
            self.answer = "ended already"


def _with_requirements(job: Job) -> Job:
    """So that there is something to build."""
    Job.objects.filter(pk=job.pk).update(requirements=["numpy"])
    job.refresh_from_db()
    return job


def _waiting_again(world: World, job: Job, happens: Happening) -> None:
    world.launch(Fault("create", error=EngineError("no")))
    happens()


def _building(world: World, job: Job, happens: Happening) -> None:
    world.launch(happens.in_a_worker("build"))


def _starting(world: World, job: Job, happens: Happening) -> None:
    world.launch(happens.in_a_worker("experiment"))


def _training(world: World, job: Job, happens: Happening) -> None:
    world.launch()
    happens()


def _stopping(world: World, job: Job, happens: Happening) -> None:
    world.launch()
    attempt = world.attempt_of(job)
    observe.decide(attempt, Intent.LOG_QUOTA)
    happens()


def _registering(world: World, job: Job, happens: Happening) -> None:
    world.launch()
    attempt = world.attempt_of(job)
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.finish(attempt, happens.in_a_worker("register"))


def _completed(world: World, job: Job, happens: Happening) -> None:
    _goes_on(world)
    happens()


def _failed(world: World, job: Job, happens: Happening) -> None:
    world.launch()
    world.script_ends(world.attempt_of(job), exit_code=3)
    world.finish(world.attempt_of(job))
    happens()


def _cancelled(world: World, job: Job, happens: Happening) -> None:
    world.cancel(job)
    happens()


ENTERED: dict[State, Callable[[World, Job, Happening], None]] = {
    State.QUEUED: lambda world, job, happens: happens(),
    State.WAITING_AGAIN: _waiting_again,
    State.BUILDING: _building,
    State.STARTING: _starting,
    State.TRAINING: _training,
    State.STOPPING: _stopping,
    State.REGISTERING: _registering,
    State.COMPLETED: _completed,
    State.FAILED: _failed,
    State.CANCELLED: _cancelled,
}
STATE_SEEN = {
    State.QUEUED: (Status.QUEUED, Phase.WAITING),
    State.WAITING_AGAIN: (Status.QUEUED, Phase.WAITING),
    State.BUILDING: (Status.RUNNING, Phase.BUILDING_ENVIRONMENT),
    State.STARTING: (Status.RUNNING, Phase.STARTING),
    State.TRAINING: (Status.RUNNING, Phase.TRAINING),
    State.STOPPING: (Status.RUNNING, Phase.STOPPING),
    State.REGISTERING: (Status.RUNNING, Phase.REGISTERING),
    State.COMPLETED: (Status.COMPLETED, Phase.ENDED),
    State.FAILED: (Status.FAILED, Phase.ENDED),
    State.CANCELLED: (Status.CANCELLED, Phase.ENDED),
}


def _goes_on(world: World) -> None:
    """What would come next: the engine is back, scripts end well unless they are asked to stop."""
    world.engine.away = False
    for _ in range(ROUNDS):
        world.measure()
        world.leases_run_out()
        world.reconcile()
        world.tick()
        _scripts_end(world)
        world.waits_are_over()
        world.new_supervisor()
        world.tick()
        world.work_off()
        if not world.alive():
            break
    world.reconcile()


def _scripts_end(world: World) -> None:
    for attempt in Attempt.objects.filter(finished_at=None).exclude(container_id=""):
        if attempt.container_id not in world.engine.running():
            continue
        if attempt.intent:
            world.engine.ends(attempt.container_id, exit_code=ASKED_TO_END)
        else:
            world.script_ends(attempt, exit_code=0, logs_model=True)


# -- two at a time -------------------------------------------------------------------------------
def test_two_workers_with_the_same_task_start_one_script(world: World):
    """The second one comes while the first is in the middle of it."""
    job = world.submit()
    world.launch(Fault("create", meanwhile=world.launch))
    assert job.attempts.count() == 1
    assert list(world.engine.starts.values()) == [1]


def test_two_workers_with_the_same_finish_make_one_version(world: World):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.finish(attempt, Fault("register", meanwhile=lambda: world.finish(attempt)))
    world.finish(attempt)
    job.refresh_from_db()
    assert (job.status, job.model_version, len(world.registry.versions)) == ("completed", "1", 1)
    assert job.events.filter(name="completed").count() == 1


@pytest.mark.parametrize("call", ["experiment", "user", "create", "start"])
def test_a_worker_that_slept_through_its_lease_starts_nothing_and_leaves_nothing(
    world: World, call: str
):
    job = world.submit()
    world.launch(world.loses_its_lease(call))
    world.reconcile()
    job.refresh_from_db()
    assert (job.status, job.attempts.get().reason) == (Status.QUEUED, "worker_lost")
    assert not world.engine.containers
    assert not world.engine.starts
    assert not world.registry.users


@pytest.mark.parametrize("call", ["state", "logs", "end_runs", "logged_models", "register"])
def test_a_finish_that_slept_through_its_lease_changes_nothing_that_another_one_did(
    world: World, call: str
):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    world.script_ends(attempt, exit_code=0, logs_model=True)

    def meanwhile() -> None:
        world.leases_run_out()
        world.reconcile()
        world.finish(attempt)

    world.registry.registers_twice = True
    world.finish(attempt, Fault(call, meanwhile=meanwhile))
    job.refresh_from_db()
    assert (job.status, job.model_version) == (Status.COMPLETED, "1")
    assert job.events.filter(name="completed").count() == 1


# -- what was found to break ---------------------------------------------------------------------
def test_the_lease_of_a_worker_that_died_need_not_run_out(world: World, monkeypatch):
    job = world.submit()
    world.launch(world.dies("create"))
    monkeypatch.setattr("sandbox.holders.os.getpid", lambda: 0)
    world.reconcile()
    job.refresh_from_db()
    assert job.status == Status.RUNNING, "its process lives: it is this one"
    Attempt.objects.update(lease_owner=Attempt.objects.get().lease_owner.split(":")[0] + ":4194999")
    world.reconcile()
    job.refresh_from_db()
    assert job.status == Status.QUEUED


def test_a_supervisor_that_died_as_it_took_over_stops_no_later_one(world: World):
    job, other = world.submit(), world.submit()
    world.launch(world.dies("create"))
    world.launch()
    rows.take_lease(world.attempt_of(job), rows.SUPERVISOR)
    world.new_supervisor()
    world.tick()
    world.script_ends(world.attempt_of(other), exit_code=3)
    world.tick()
    world.work_off()
    world.reconcile()
    assert Job.objects.get(pk=other.pk).status == Status.FAILED
    assert Job.objects.get(pk=job.pk).status == Status.QUEUED


def test_a_finish_that_comes_too_early_leaves_the_script_alone(world: World):
    job = world.submit()
    world.launch()
    world.finish(world.attempt_of(job))
    job.refresh_from_db()
    assert (job.status, job.phase) == (Status.RUNNING, Phase.TRAINING)
    assert len(world.engine.running()) == 1


def test_a_job_that_was_killed_for_its_time_is_not_tried_again_when_its_container_is_gone(
    world: World,
):
    job = world.submit()
    world.launch()
    world.deadlines_pass()
    world.tick()
    world.engine.containers.clear()
    world.finish(world.attempt_of(job))
    job.refresh_from_db()
    assert (job.status, job.reason) == (Status.FAILED, "timeout")


def test_an_engine_that_is_away_costs_one_attempt_and_not_all(world: World):
    job = world.submit()
    world.engine.away = True
    for _ in range(5):
        world.waits_are_over()
        world.leases_run_out()
        world.launch()
        world.measure()
    assert job.attempts.count() == 1
    assert world.room().short_of == "engine"


def test_an_engine_that_goes_takes_no_second_attempt(world: World):
    """Its events break off, so the supervisor looks: before any worker launches again."""
    job = world.submit()
    world.launch()
    world.engine_dies()
    world.tick()
    world.work_off()
    world.engine.away = True
    world.reconcile()
    world.waits_are_over()
    world.launch()
    assert job.attempts.count() == 1


def test_a_failure_after_a_cancel_is_a_cancel(world: World):
    job = world.submit()
    world.launch(
        Fault("experiment", meanwhile=lambda: world.cancel(job)), Fault("create", EngineError("no"))
    )
    job.refresh_from_db()
    assert (job.status, job.reason) == (Status.CANCELLED, "cancelled")


def test_a_model_that_another_job_tagged_as_this_ones_is_not_this_ones(world: World):
    world.submit()
    world.launch()
    attempt = world.attempt_of(Job.objects.get())
    world.registry.experiments = frozenset({"its own"})
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.finish(attempt)
    job = Job.objects.get()
    assert (job.status, job.reason) == (Status.FAILED, "no_model_logged")
    assert world.registry.versions == {}


@pytest.mark.parametrize(
    ("exit_code", "printed", "reason"),
    [
        (1, "HTTPError: 413: at most 5 MiB\n", "artifact_limit"),
        # It was told so, went on, and failed of something else.
        (1, "Traceback (most recent call last):\nValueError: no data\n", "script_error"),
        (0, "", "artifact_limit"),
    ],
)
def test_a_job_that_sent_mlflow_too_much_is_told_so(
    world: World, exit_code: int, printed: str, reason: str
):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    world.registry.refused[attempt.mlflow_username] = "at most 5 MiB"
    world.script_ends(attempt, exit_code=exit_code, prints=printed)
    world.finish(attempt)
    job.refresh_from_db()
    assert (job.status, job.reason) == (Status.FAILED, reason)


def test_a_cancel_before_the_model_is_registered_keeps_it_from_being_registered(world: World):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.finish(attempt, Fault("logged_models", meanwhile=lambda: world.cancel(job)))
    job.refresh_from_db()
    assert job.status == Status.CANCELLED
    assert not world.registry.versions


def test_a_finish_that_always_fails_comes_to_an_end(world: World):
    job = world.submit()
    for _ in range(30):
        world.launch()
        attempt = world.attempt_of(job)
        if attempt.container_id in world.engine.running():
            world.script_ends(attempt, exit_code=0, logs_model=True)
        world.leases_run_out()
        world.reconcile()
        world.waits_are_over()
        world.finish(attempt, Fault("end_runs", error=KeyError("a bug of ours")))
    job.refresh_from_db()
    assert (job.status, job.reason, job.attempts.count()) == (Status.FAILED, "internal_error", 3)


def test_a_script_that_has_ended_is_not_run_again_because_the_platform_stopped(world: World):
    job = world.submit()
    world.launch()
    world.script_ends(world.attempt_of(job), exit_code=0, logs_model=True)
    world.stop_everything()
    world.engine.containers.clear()
    world.new_supervisor()
    world.tick()
    world.reconcile()
    world.work_off()
    job.refresh_from_db()
    assert (job.status, job.attempts.count()) == (Status.COMPLETED, 1)


def test_a_script_that_runs_when_the_platform_stops_is_run_again(world: World):
    job = world.submit()
    world.launch()
    world.stop_everything()
    job.refresh_from_db()
    assert (job.status, job.attempts.get().reason) == (Status.QUEUED, "platform_stopped")
    assert not world.engine.containers


def test_an_engine_that_dies_while_the_platform_stops_leaves_the_rest_to_the_next_start(
    world: World,
):
    job = world.submit()
    world.launch()
    world.engine.away = True
    world.stop_everything()
    world.all_becomes_well()
    job.refresh_from_db()
    assert job.reason == "script_error"


def test_mlflow_that_hangs_is_asked_for_no_users(world: World):
    Attempt.objects.create(
        job=world.submit(),
        lease_owner="x",
        lease_expires_at=timezone.now(),
        created_at=timezone.now(),
        finished_at=timezone.now(),
        mlflow_username="job-x",
    )
    world.registry.users.add("job-x")
    world.registry.away = True
    world.reconcile()
    assert world.registry.users
    world.registry.away = False
    world.reconcile()
    assert not world.registry.users


def test_a_supervisor_that_died_is_followed_at_once_and_one_that_hangs_after_its_lease(
    world: World,
):
    first, second, third = (uuid.uuid4() for _ in range(3))
    assert observe.hold_engine("here", first)
    assert observe.hold_engine("here", first)
    assert not observe.hold_engine("here", second)
    os.close(observe._locks.pop(first))
    assert observe.hold_engine("here", second), "the kernel freed the lock of the dead one"
    assert not observe.hold_engine("here", third)
    SupervisorLease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert observe.hold_engine("here", third)
    assert not observe.hold_engine("here", second)
    for holder in (second, third):
        observe.release_engine("here", holder)
