"""The road of a job: submit, claim, launch, finish. Nothing else writes a job's state.

Every write after the claim is guarded by the attempt's lease token: zero rows changed means that
somebody else holds the attempt now, and the holder of the old token stops (`LeaseLost`). No call
to Docker or MLflow happens inside a transaction.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from django_q.tasks import async_task

from registry.mlflow_client import (
    LoggedModel,
    ModelRegistry,
    ModelVersion,
    RegistryRefused,
    RegistryUnavailable,
    model_registry,
)
from sandbox.engine import ContainerState, Engine, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentStore
from training import containers, engine_room, logs
from training.api.submission import Submission
from training.models import Attempt, Job, JobEvent, LogChunk
from training.signals import model_registered
from training.states import TERMINAL, EndReason, Phase, Reason, Status, may_become
from training.verdict import ExitFacts, failure_of

log = logging.getLogger(__name__)

LEASE_SECONDS = 60
LEASE_RENEW_SECONDS = 15
FINISH_PATIENCE_SECONDS = 600
MAX_ATTEMPTS = 3
LOG_TAIL_BYTES = 64 * 1024
SUPERVISOR = "supervisor"
LAUNCH_TASK = "training.tasks.launch"
FINISH_TASK = "training.tasks.finish"


class LeaseLost(Exception):
    """Somebody else holds this attempt now; whoever raised this must leave it alone."""


# -- submit --------------------------------------------------------------------------------------
def submit(submission: Submission) -> Job:
    """Keeps the job. The row is the order: the supervisor sees it and wakes a worker.

    The web process, which calls this, cannot write to the queue: a queued task is code that a
    worker runs with access to the engine.
    """
    now = timezone.now()
    with transaction.atomic():
        job = Job.objects.create(
            script_name=submission.script_name,
            script=submission.script,
            experiment_name=submission.experiment_name,
            model_name=submission.model_name,
            requirements=list(submission.requirements),
            environment=dict(submission.environment),
            tags=dict(submission.tags),
            timeout_seconds=submission.timeout,
            memory_mb=settings.JOB_MEMORY_MB,
            cpus=settings.JOB_CPUS,
            created_at=now,
        )
        _event(job, "accepted")
    return job


# -- claim ---------------------------------------------------------------------------------------
def claim_next() -> Attempt | None:
    """Takes the job that waits longest, if there is room for one more; None otherwise."""
    now = timezone.now()
    with transaction.atomic():
        running = Attempt.objects.filter(finished_at=None).count()
        if running >= settings.MAX_CONCURRENT_JOBS:
            return None
        waiting = Job.objects.select_for_update(skip_locked=True).filter(status=Status.QUEUED)
        job = waiting.order_by("created_at").first()
        if job is None:
            return None
        _move(job, Status.RUNNING)
        job.phase = Phase.BUILDING_ENVIRONMENT
        job.started_at = job.started_at or now
        job.save(update_fields=["status", "phase", "started_at"])
        attempt = Attempt.objects.create(
            job=job,
            number=job.attempts.count() + 1,
            lease_owner=_me(),
            lease_expires_at=now + timedelta(seconds=LEASE_SECONDS),
        )
        _event(job, "claimed", f"attempt {attempt.number} by {attempt.lease_owner}")
    return attempt


# -- launch --------------------------------------------------------------------------------------
def launch(attempt: Attempt) -> None:
    """From a claimed attempt to a running container; every failure on the way ends the job."""
    with _lease_kept(attempt):
        try:
            _launch(attempt)
        except EnvironmentFailed as error:
            reason = EndReason.of(Reason(error.reason), sentence=error.detail, hint=error.hint)
            _end_before_start(attempt, reason)
        except SandboxMismatch as error:
            log.error("job.sandbox_refused", extra={"differences": error.differences})
            _event(attempt.job, "sandbox_refused", str(error))
            _end_before_start(attempt, EndReason.of(Reason.SANDBOX_REFUSED))
        except (EngineError, EngineUnavailable):
            log.exception("job.engine_failed", extra={"job": str(attempt.job_id)})
            _end_before_start(attempt, EndReason.of(Reason.ENGINE_FAILED))
        except RegistryUnavailable:
            log.exception("job.tracking_unreachable", extra={"job": str(attempt.job_id)})
            _end_before_start(attempt, EndReason.of(Reason.TRACKING_UNREACHABLE))
        except RegistryRefused as error:
            _end_before_start(
                attempt, EndReason.of(Reason.EXPERIMENT_REFUSED, sentence=str(error.detail))
            )


def _launch(attempt: Attempt) -> None:
    store = engine_room.environments()
    environment = _environment_for(attempt, store)
    _update_job(attempt, phase=Phase.STARTING, environment_key=environment.key)
    variables = _open_tracking(attempt)
    containers.write_script(attempt)
    spec = containers.spec_of(
        attempt,
        environment=environment,
        platform_folder=store.platform_folder(),
        variables=variables,
    )
    _start(attempt, engine_room.engine(), engine_room.engine().create(spec))


def _environment_for(attempt: Attempt, store: EnvironmentStore) -> Environment:
    """The environment that is there, or a new one whose build shows in the job's log."""
    requirements = attempt.job.requirements
    found = store.find(requirements)
    if found is not None:
        return found
    _event(attempt.job, "environment_build_started")
    output = logs.BufferedLog(attempt, LogChunk.Part.BUILD)
    try:
        return store.build(requirements, output=output.write)
    finally:
        output.flush()


def _open_tracking(attempt: Attempt) -> dict[str, str]:
    """The job's own MLflow user, who may write to its experiment and to nothing else."""
    registry = model_registry()
    username = f"job-{attempt.job.pk.hex[:12]}-{attempt.number}-{secrets.token_hex(3)}"
    password = secrets.token_urlsafe(24)
    experiment_id = registry.ensure_experiment(attempt.job.experiment_name)
    # Before the user exists: a user that nobody remembers would never be deleted.
    _update_attempt(attempt, mlflow_username=username)
    registry.create_job_user(username, password, experiment_id)
    return containers.job_variables(
        attempt.job, experiment_id=experiment_id, username=username, password=password
    )


def _start(attempt: Attempt, engine: Engine, container_id: str) -> None:
    try:
        _update_attempt(attempt, container_id=container_id, readback=engine.readback(container_id))
        engine.start(container_id)
    except (LeaseLost, EngineError, EngineUnavailable):
        engine.remove(container_id)
        raise
    now = timezone.now()
    hand_over(attempt, started_at=now)
    _event(attempt.job, "started", f"container {container_id[:12]}")


def hand_over(attempt: Attempt, *, started_at: datetime) -> None:
    """The container runs: from here on the supervisor holds the lease."""
    deadline = started_at + timedelta(seconds=attempt.job.timeout_seconds)
    _update_job(attempt, phase=Phase.TRAINING)
    _update_attempt(
        attempt,
        lease_owner=SUPERVISOR,
        lease_expires_at=timezone.now() + timedelta(seconds=LEASE_SECONDS),
        container_started_at=started_at,
        deadline_at=deadline,
    )


def _end_before_start(attempt: Attempt, reason: EndReason) -> None:
    end(attempt, reason)
    clean_up(attempt)


# -- finish --------------------------------------------------------------------------------------
def claim_finish(attempt_id: int) -> Attempt | None:
    """Takes an attempt whose container has ended; None when another worker is at it or was."""
    now = timezone.now()
    token = uuid.uuid4()
    open_attempts = Attempt.objects.filter(pk=attempt_id, finished_at=None)
    free = open_attempts.filter(lease_owner=SUPERVISOR) | open_attempts.filter(
        lease_expires_at__lt=now
    )
    taken = free.update(
        lease_owner=_me(),
        lease_token=token,
        lease_expires_at=now + timedelta(seconds=LEASE_SECONDS),
    )
    return Attempt.objects.select_related("job").get(pk=attempt_id) if taken else None


def finish(attempt: Attempt) -> None:
    """Decides the end from facts, registers the model, tells the world, cleans up."""
    with _lease_kept(attempt):
        state = engine_room.engine().state(attempt.container_id)
        try:
            _finish(attempt, state)
        except RegistryUnavailable:
            _try_again_later(attempt, state)
            return
    clean_up(attempt)


def _finish(attempt: Attempt, state: ContainerState | None) -> None:
    registry = model_registry()
    reason = _script_failure(attempt, state)
    _end_runs(registry, attempt, succeeded=reason is None)
    if reason is not None:
        end(attempt, reason, run_id=_newest_run(registry, attempt.job))
        return
    _update_job(attempt, phase=Phase.REGISTERING)
    model, reason = _choose_model(registry, attempt.job)
    if reason is not None or model is None:
        end(
            attempt,
            reason or EndReason.of(Reason.NO_MODEL_LOGGED),
            run_id=_newest_run(registry, attempt.job),
        )
        return
    try:
        version = _register(registry, attempt.job, model)
    except RegistryRefused as error:
        log.error("job.registration_refused", extra={"job": str(attempt.job_id)})
        reason = EndReason.of(Reason.REGISTRATION_FAILED, sentence=str(error.detail))
        end(attempt, reason, run_id=model.run_id)
        return
    end(
        attempt,
        EndReason.of(Reason.MODEL_REGISTERED),
        run_id=model.run_id,
        model_version=version.version,
    )


def _script_failure(attempt: Attempt, state: ContainerState | None) -> EndReason | None:
    if state is None or state.exit_code is None:
        return EndReason.of(Reason.PLATFORM_STOPPED)
    _update_attempt(attempt, exit_code=state.exit_code, oom_killed=state.oom_killed)
    return failure_of(
        ExitFacts(
            exit_code=state.exit_code,
            oom_killed=state.oom_killed,
            intent=attempt.intent,
            seconds=_seconds_run(state),
            timeout_seconds=attempt.job.timeout_seconds,
            log_tail=logs.tail_of(attempt, size=LOG_TAIL_BYTES),
        )
    )


def _seconds_run(state: ContainerState) -> float:
    if state.started_at is None or state.finished_at is None:
        return 0.0
    return (state.finished_at - state.started_at).total_seconds()


def _end_runs(registry: ModelRegistry, attempt: Attempt, *, succeeded: bool) -> None:
    """A run's own status is not to be trusted: a killed script leaves it running for ever."""
    registry.end_runs(str(attempt.job_id), succeeded=succeeded)


def _newest_run(registry: ModelRegistry, job: Job) -> str:
    runs = registry.runs_of_job(str(job.pk))
    return runs[0] if runs else ""


def _choose_model(registry: ModelRegistry, job: Job) -> tuple[LoggedModel | None, EndReason | None]:
    """The model that was logged last and is wholly stored; or why there is none."""
    ready = registry.ready_models(job_id=str(job.pk))
    if ready:
        return ready[-1], None
    begun = registry.logged_models(str(job.pk))
    return None, EndReason.of(Reason.MODEL_NOT_READY if begun else Reason.NO_MODEL_LOGGED)


def _register(registry: ModelRegistry, job: Job, model: LoggedModel) -> ModelVersion:
    """A version made by an earlier, interrupted try is found again, never made twice."""
    tags = {
        **job.tags,
        "mlops.job_id": str(job.pk),
        "mlops.environment": job.environment_key,
        "mlops.requirements": json.dumps(job.requirements),
    }
    found = registry.version_of_logged_model(job.model_name, model)
    return found or registry.register_logged_model(job.model_name, model, tags=tags)


def _try_again_later(attempt: Attempt, state: ContainerState | None) -> None:
    """MLflow is away: the supervisor asks again, for ten minutes after the container's end."""
    ended_at = state.finished_at if state else None
    patience = timedelta(seconds=FINISH_PATIENCE_SECONDS)
    if ended_at is not None and timezone.now() - ended_at < patience:
        _update_attempt(attempt, lease_owner=SUPERVISOR)
        return
    end(attempt, EndReason.of(Reason.TRACKING_UNREACHABLE))


# -- end -----------------------------------------------------------------------------------------
def end(attempt: Attempt, reason: EndReason, *, run_id: str = "", model_version: str = "") -> None:
    """The one place where a job becomes terminal. Raises LeaseLost."""
    now = timezone.now()
    job = attempt.job
    failed = reason.status is Status.FAILED
    with transaction.atomic():
        _update_attempt(attempt, finished_at=now)
        job.refresh_from_db()
        _move(job, reason.status)
        job.phase = Phase.ENDED
        job.reason = reason.reason
        job.error = reason.sentence if failed else ""
        job.hint = reason.hint if failed else ""
        job.run_id = run_id
        job.model_version = model_version
        job.completed_at = now
        job.save()
        _event(job, str(reason.status), f"{reason.reason}: {reason.sentence}")
    log.info("job.ended", extra={"job": str(job.pk), "reason": str(reason.reason)})
    if model_version:
        model_registered.send(sender=Job, model_name=job.model_name, version=model_version)


def clean_up(attempt: Attempt) -> None:
    """Removes what an ended attempt leaves: container, script folder, MLflow user."""
    if attempt.container_id:
        engine_room.engine().remove(attempt.container_id)
    containers.remove_script(attempt)
    if attempt.mlflow_username:
        try:
            model_registry().delete_job_user(attempt.mlflow_username)
        except RegistryUnavailable:
            return  # `forgotten_attempts` finds it again
        Attempt.objects.filter(pk=attempt.pk).update(mlflow_username="")


# -- what the supervisor asks for -----------------------------------------------------------------
def renew_leases(attempt_ids: list[int]) -> None:
    """The supervisor has seen these containers: their attempts are alive."""
    expires = timezone.now() + timedelta(seconds=LEASE_SECONDS)
    held = Attempt.objects.filter(pk__in=attempt_ids, finished_at=None, lease_owner=SUPERVISOR)
    held.update(lease_expires_at=expires)


def note_deadline(attempt: Attempt) -> None:
    """Recorded before the container is killed: the end is decided by this, not by the kill."""
    _update_attempt(attempt, intent="deadline")
    _event(attempt.job, "deadline_reached", f"after {attempt.job.timeout_seconds} s")


def ask_to_finish(attempt_id: int) -> None:
    async_task(FINISH_TASK, attempt_id, save=False)


def start_over(attempt: Attempt) -> None:
    """An attempt died before its script started: the job waits again, or fails the third time."""
    now = timezone.now()
    job = attempt.job
    if attempt.number >= MAX_ATTEMPTS:
        end(attempt, EndReason.of(Reason.PLATFORM_STOPPED))
        return
    with transaction.atomic():
        _update_attempt(attempt, finished_at=now)
        job.refresh_from_db()
        _move(job, Status.QUEUED)
        job.phase = Phase.WAITING
        job.save(update_fields=["status", "phase"])
        _event(job, "waiting_again", f"attempt {attempt.number} died before the script started")


def take_over(attempt: Attempt) -> None:
    """The supervisor takes a lease that has expired; the former holder's token is void."""
    token = uuid.uuid4()
    expired = Attempt.objects.filter(
        pk=attempt.pk,
        finished_at=None,
        lease_token=attempt.lease_token,
        lease_expires_at__lt=timezone.now(),
    )
    expires = timezone.now() + timedelta(seconds=LEASE_SECONDS)
    if not expired.update(lease_token=token, lease_owner=SUPERVISOR, lease_expires_at=expires):
        raise LeaseLost(str(attempt))
    attempt.lease_token = token


def next_to_launch() -> uuid.UUID | None:
    """The job that waits longest, if there is room for one more; None otherwise."""
    if Attempt.objects.filter(finished_at=None).count() >= settings.MAX_CONCURRENT_JOBS:
        return None
    waiting = Job.objects.filter(status=Status.QUEUED).order_by("created_at")
    return waiting.values_list("pk", flat=True).first()


def ask_to_launch() -> None:
    """Wakes a worker, which launches what waits longest when it comes to it."""
    async_task(LAUNCH_TASK, save=False)


# -- helpers -------------------------------------------------------------------------------------
def _update_attempt(attempt: Attempt, **values: Any) -> None:
    """Raises LeaseLost when the token is not the one in the row, or the attempt is over."""
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    if not held.update(**values):
        raise LeaseLost(str(attempt))
    for name, value in values.items():
        setattr(attempt, name, value)


def _update_job(attempt: Attempt, **values: Any) -> None:
    """Changes the job of an attempt that is still held. Raises LeaseLost."""
    held = Job.objects.filter(
        pk=attempt.job_id,
        attempts__pk=attempt.pk,
        attempts__lease_token=attempt.lease_token,
        attempts__finished_at=None,
    ).exclude(status__in=TERMINAL)
    if not held.update(**values):
        raise LeaseLost(str(attempt))
    for name, value in values.items():
        setattr(attempt.job, name, value)


def _move(job: Job, status: Status) -> None:
    if not may_become(Status(job.status), status):
        raise LeaseLost(f"{job} cannot become {status}")
    job.status = status


@contextlib.contextmanager
def _lease_kept(attempt: Attempt) -> Iterator[None]:
    """Renews the lease from a thread while the block works: a build may take minutes."""
    done = threading.Event()

    def renew() -> None:
        try:
            while not done.wait(LEASE_RENEW_SECONDS):
                expires = timezone.now() + timedelta(seconds=LEASE_SECONDS)
                held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token)
                held.update(lease_expires_at=expires)
        finally:
            connection.close()

    keeper = threading.Thread(target=renew, name="lease-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _event(job: Job, name: str, detail: str = "") -> None:
    JobEvent.objects.create(job=job, at=timezone.now(), name=name, detail=detail)


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
