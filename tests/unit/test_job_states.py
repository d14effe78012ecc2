"""No sequence of events leaves a terminal state, or a state that nobody owns."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from registry.mlflow_client import RegistryRefused
from sandbox.engine import EngineError, EngineUnavailable, SandboxMismatch
from tests.unit.job_world import MAX_ATTEMPTS, EnvironmentFailed, Fault, World
from training.models import Attempt, Job
from training.services import rows
from training.services.cancel import AlreadyEnded
from training.services.finish import end, retry_delay
from training.states import (
    ENDINGS,
    TERMINAL,
    TRANSITIONS,
    EndReason,
    Phase,
    Reason,
    Status,
    may_become,
)
from training.states import Fault as WhoseFault

CLEAN_UP = ("remove", "delete_user")
LAUNCH_CALLS = ("build", "experiment", "user", "create", "start", *CLEAN_UP)
FINISH_CALLS = ("state", "logs", "remove", "end_runs", "logged_models", "register", "delete_user")
ENGINE_CALLS = ("create", "start", "remove", "state")
FAULTS = st.sampled_from(["away", "error", "dies before", "dies after", "sleeps"])
EXIT_CODES = st.sampled_from([0, 0, 0, 1, 3, 124, 137, 143, 225, 255, 160 + 9])


# -- the table -----------------------------------------------------------------------------------
@given(st.lists(st.sampled_from(Status), max_size=30))
def test_no_sequence_of_moves_leaves_a_terminal_status(wanted: list[Status]):
    status, ended = Status.QUEUED, None
    for one in wanted:
        if may_become(status, one):
            status = one
        ended = ended or (status if status in TERMINAL else None)
        assert ended is None or status == ended


@pytest.mark.parametrize("status", [one for one in Status if one not in TERMINAL])
def test_every_status_that_is_no_end_leads_to_every_end(status: Status):
    reached, seen = {status}, set()
    while reached - seen:
        seen |= reached
        reached |= {after for one in seen for after in TRANSITIONS[one]}
    assert reached >= TERMINAL


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_terminal_status_and_words(reason: Reason):
    ending = ENDINGS[reason]
    assert ending.status in TERMINAL
    assert ending.sentence.endswith(".")
    assert ending.status is Status.COMPLETED or ending.hint


@pytest.mark.parametrize("reason", Reason)
def test_only_our_own_faults_are_tried_again_by_us(reason: Reason):
    ending = ENDINGS[reason]
    assert not (ending.retried_by_us and ending.fault is not WhoseFault.PLATFORM)


# -- the services --------------------------------------------------------------------------------
class JobsOfAPlatform(RuleBasedStateMachine):
    """Whatever happens to a platform, in any order, and after each of it what must hold."""

    @initialize()
    def starts(self) -> None:
        self.world = World().__enter__()
        self.ends: dict[str, tuple[str, str, str]] = {}
        self.final_cancels: set[str] = set()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.all_becomes_well()
        self._every_job_has_ended_and_left_nothing()
        self.world.__exit__(None, None, None)
        Job.objects.all().delete()

    # -- what clients do -----------------------------------------------------------------------
    @rule(builds=st.booleans())
    def somebody_sends_a_job(self, builds: bool) -> None:
        self.world.submit(requirements=("numpy",) if builds else ())

    @precondition(lambda self: Job.objects.exists())
    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        job = self._some(data, Job)
        try:
            if self.world.cancel(job):
                self.final_cancels.add(str(job.pk))
        except AlreadyEnded:
            job.refresh_from_db()
            assert job.status in TERMINAL

    @precondition(lambda self: 0 < Job.objects.count() < 6)
    @rule(data=st.data())
    def somebody_runs_it_again(self, data: st.DataObject) -> None:
        first = self._some(data, Job)
        again = self.world.rerun(first)
        assert (again.rerun_of_id, again.script) == (first.pk, first.script)

    # -- what workers do -----------------------------------------------------------------------
    @rule()
    def a_worker_launches(self) -> None:
        self.world.launch()

    @rule(call=st.sampled_from(LAUNCH_CALLS), fault=FAULTS)
    def a_launch_goes_wrong(self, call: str, fault: str) -> None:
        self.world.launch(self._fault(call, fault))

    @rule(reason=st.sampled_from([r for r in Reason if "requirements" in r or "environment" in r]))
    def a_build_fails(self, reason: Reason) -> None:
        error = EnvironmentFailed(reason=str(reason), detail="It failed.", hint="Mend it.")
        self.world.launch(Fault("build", error=error))

    @rule()
    def a_container_is_not_locked_down(self) -> None:
        self.world.launch(Fault("create", error=SandboxMismatch(["Memory"])))

    @rule()
    def a_launch_is_refused_by_mlflow(self) -> None:
        self.world.launch(Fault("experiment", error=RegistryRefused("deleted")))

    @precondition(lambda self: Attempt.objects.exists())
    @rule(data=st.data(), twice=st.booleans())
    def a_finish_is_delivered(self, data: st.DataObject, twice: bool) -> None:
        attempt = self._some(data, Attempt)
        for _ in range(1 + twice):
            self.world.finish(attempt)

    @precondition(lambda self: Attempt.objects.exists())
    @rule(data=st.data(), call=st.sampled_from(FINISH_CALLS), fault=FAULTS)
    def a_finish_goes_wrong(self, data: st.DataObject, call: str, fault: str) -> None:
        self.world.finish(self._some(data, Attempt), self._fault(call, fault))

    @precondition(lambda self: Attempt.objects.exists())
    @rule(data=st.data())
    def somebody_cancels_while_a_model_is_looked_for(self, data: st.DataObject) -> None:
        attempt = self._some(data, Attempt)

        def meanwhile() -> None:
            if attempt.job.status not in TERMINAL:
                self.world.cancel(attempt.job)

        self.world.finish(attempt, Fault("logged_models", meanwhile=meanwhile))

    @rule()
    def workers_work_the_queue_off(self) -> None:
        self.world.work_off()

    @precondition(lambda self: Attempt.objects.exists())
    @rule(data=st.data())
    def a_stale_worker_writes(self, data: st.DataObject) -> None:
        """It read its attempt, then slept; somebody else holds the attempt by now."""
        stale = self._some(data, Attempt)
        rows.take_lease(Attempt.objects.get(pk=stale.pk), rows.SUPERVISOR)
        before = list(Job.objects.order_by("pk").values())
        for write in (
            lambda: rows.update_attempt(stale, exit_code=0),
            lambda: rows.update_job(stale, phase=Phase.STARTING),
            lambda: rows.enter_phase(stale, Phase.STARTING),
            lambda: end(stale, EndReason.of(Reason.SUCCEEDED)),
        ):
            with pytest.raises(rows.LeaseLost):
                write()
        assert list(Job.objects.order_by("pk").values()) == before

    # -- what the supervisor does --------------------------------------------------------------
    @rule()
    def the_supervisor_looks(self) -> None:
        self.world.tick()

    @rule()
    def the_supervisor_finds_what_is_left(self) -> None:
        self.world.measure()
        self.world.reconcile()

    @rule()
    def the_supervisor_is_killed(self) -> None:
        self.world.new_supervisor()

    @rule()
    def a_supervisor_dies_as_it_takes_over(self) -> None:
        """After each attempt it took over, before it said how to go on."""
        for attempt in Attempt.objects.filter(finished_at=None):
            if rows.take_lease(attempt, rows.SUPERVISOR, lease_expires_at__lt=timezone.now()):
                self.world.new_supervisor()

    # -- what happens --------------------------------------------------------------------------
    @precondition(lambda self: self.world.engine.running())
    @rule(data=st.data(), exit_code=EXIT_CODES, logs_model=st.booleans(), oom=st.booleans())
    def a_script_ends(
        self, data: st.DataObject, exit_code: int, logs_model: bool, oom: bool
    ) -> None:
        container = data.draw(st.sampled_from(self.world.engine.running()))
        pk = self.world.engine.containers[container].labels["mlops.attempt"]
        attempt = Attempt.objects.get(pk=pk)
        if logs_model:
            self.world.registry.log_model(f"{attempt.job_id}/{attempt.number}")
        self.world.engine.ends(container, exit_code=exit_code, oom=oom and exit_code == 137)

    @precondition(lambda self: self.world.engine.containers)
    @rule(data=st.data())
    def somebody_removes_a_container(self, data: st.DataObject) -> None:
        del self.world.engine.containers[
            data.draw(st.sampled_from(sorted(self.world.engine.containers)))
        ]

    @rule()
    def leases_run_out(self) -> None:
        self.world.leases_run_out()

    @rule()
    def deadlines_pass(self) -> None:
        self.world.deadlines_pass()

    @rule()
    def patience_ends(self) -> None:
        self.world.patience_ends()

    @rule()
    def waits_are_over(self) -> None:
        self.world.waits_are_over()

    @rule(away=st.booleans())
    def mlflow_goes_or_comes(self, away: bool) -> None:
        self.world.registry.away = away

    @rule(away=st.booleans())
    def the_engine_goes_or_comes(self, away: bool) -> None:
        self.world.engine.away = away

    @rule()
    def the_engine_dies_and_starts(self) -> None:
        self.world.engine_dies()

    @rule()
    def the_platform_stops(self) -> None:
        self.world.stop_everything()

    # -- what must hold ------------------------------------------------------------------------
    @invariant()
    def an_end_is_an_end(self) -> None:
        for job in Job.objects.filter(status__in=TERMINAL):
            now = (job.status, job.reason, str(job.completed_at))
            assert self.ends.setdefault(str(job.pk), now) == now
        alive = {str(job.pk) for job in self.world.alive()}
        assert not alive & set(self.ends)

    @invariant()
    def an_end_has_a_reason_words_and_a_time(self) -> None:
        for job in Job.objects.filter(status__in=TERMINAL):
            assert job.reason
            assert job.completed_at is not None
            assert job.phase == Phase.ENDED
            assert ENDINGS[Reason(job.reason)].status == job.status
            assert job.status == Status.COMPLETED or (job.error and job.hint)
            assert job.status != Status.COMPLETED or job.model_version

    @invariant()
    def what_runs_has_one_open_attempt_and_nothing_else_has_any(self) -> None:
        for job in Job.objects.all():
            open_attempts = job.attempts.filter(finished_at=None).count()
            assert open_attempts == (1 if job.status == Status.RUNNING else 0)

    @invariant()
    def a_script_runs_at_most_once_in_an_attempt(self) -> None:
        assert all(count == 1 for count in self.world.engine.starts.values())

    @invariant()
    def attempts_are_bounded(self) -> None:
        for job in Job.objects.all():
            ours = job.attempts.exclude(reason=Reason.PLATFORM_STOPPED)
            assert ours.count() <= MAX_ATTEMPTS

    @invariant()
    def the_users_fault_is_never_tried_again(self) -> None:
        for attempt in Attempt.objects.exclude(reason=""):
            if not ENDINGS[Reason(attempt.reason)].retried_by_us:
                assert attempt.job.status in TERMINAL
                assert attempt.job.reason == attempt.reason

    @invariant()
    def a_final_cancel_stays(self) -> None:
        for pk in self.final_cancels:
            assert Job.objects.get(pk=pk).status == Status.CANCELLED

    # -- helpers -------------------------------------------------------------------------------
    def _some(self, data: st.DataObject, model: type) -> object:
        found = list(model.objects.order_by("pk" if model is Attempt else "created_at"))
        return found[data.draw(st.integers(0, len(found) - 1))]

    def _fault(self, call: str, fault: str) -> Fault:
        if fault.startswith("dies"):
            return self.world.dies(call, after=fault.endswith("after"))
        if fault == "sleeps":
            return self.world.loses_its_lease(call)
        engines = call in ENGINE_CALLS
        if fault == "away":
            away = EngineUnavailable("away") if engines else self.world.registry_is_away()
            return Fault(call, error=away)
        return Fault(call, error=EngineError("no") if engines else KeyError("a bug of ours"))

    def _every_job_has_ended_and_left_nothing(self) -> None:
        assert not self.world.alive()
        assert not self.world.engine.containers
        assert not self.world.registry.users
        assert not Attempt.objects.filter(finished_at=None).exists()
        for check in (
            self.an_end_is_an_end,
            self.an_end_has_a_reason_words_and_a_time,
            self.a_script_runs_at_most_once_in_an_attempt,
            self.attempts_are_bounded,
            self.the_users_fault_is_never_tried_again,
            self.a_final_cancel_stays,
        ):
            check()


@pytest.mark.django_db
def test_no_sequence_of_events_breaks_a_promise():
    run_state_machine_as_test(
        JobsOfAPlatform,
        settings=settings(
            # A step costs four times as much on PostgreSQL, and its part is the locks.
            max_examples=30 if connection.vendor == "sqlite" else 12,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- what time does ------------------------------------------------------------------------------
@given(st.integers(1, 100))
def test_a_wait_grows_and_stays_within_minutes(attempts: int):
    assert timedelta(seconds=2) <= retry_delay(attempts) <= timedelta(minutes=5)
    assert retry_delay(attempts) <= retry_delay(attempts + 1)
