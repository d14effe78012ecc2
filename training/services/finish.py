"""Decides the end from facts, registers the model, tells the world, leaves nothing behind."""

import contextlib
import json
import logging
import signal
from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils import timezone
from django_q.tasks import async_task

from registry.doorbell import SUPERVISOR_BELL
from registry.mlflow_client import (
    LoggedModel,
    ModelRegistry,
    ModelVersion,
    RegistryRefused,
    RegistryUnavailable,
    model_registry,
)
from sandbox import holders
from sandbox.engine import EngineUnavailable
from training import containers, engine_room, logs
from training.models import Attempt, Job, LogChunk
from training.services import rows, waiting
from training.signals import model_registered
from training.states import EndReason, Intent, Phase, Reason, Status
from training.verdict import ExitFacts, failure_of

log = logging.getLogger(__name__)

FINISH_TASK = "training.tasks.finish"
FINISH_PATIENCE_SECONDS = 600
FINISH_FAILED = "finish_failed"
FINISH_FAILURES_MAX = 5
LOG_TAIL_BYTES = 64 * 1024
USERS_AT_ONCE = 50
MLFLOW_SECONDS = 1.0
CONTAINER_IS_GONE = 128 + signal.SIGKILL


def ask_to_finish(attempt_id: int) -> None:
    """Wakes a worker to end an attempt whose container has ended."""
    async_task(FINISH_TASK, attempt_id, save=False)


def claim_finish(attempt_id: int) -> Attempt | None:
    """Takes an attempt whose container has ended; None when another worker is at it or was."""
    attempt = Attempt.objects.select_related("job").filter(pk=attempt_id).first()
    if attempt is None:
        return None
    started = {"container_started_at__isnull": False}
    if rows.take_lease(attempt, holders.me(), lease_owner=rows.SUPERVISOR, **started):
        return attempt
    expired = {"lease_expires_at__lt": timezone.now(), **started}
    return attempt if rows.take_lease(attempt, holders.me(), **expired) else None


def finish(attempt: Attempt) -> None:
    """From a container that has ended to the job's end. Raises LeaseLost.

    While the engine or MLflow is away the attempt goes back to the supervisor, who asks again.
    """
    with rows.lease_kept(attempt), _failures_counted(attempt):
        try:
            _finish(attempt)
        except EngineUnavailable:
            _give_back(attempt)
        except RegistryUnavailable:
            _try_again_later(attempt)


def end(attempt: Attempt, reason: EndReason, *, run_id: str = "", model_version: str = "") -> None:
    """The one place where an attempt ends: its job too, or it waits to be tried again.

    Raises LeaseLost.
    """
    with transaction.atomic():
        rows.hold(attempt)
        attempt.job.refresh_from_db(from_queryset=Job.objects.select_for_update())
        reason = _what_was_asked(attempt.job, reason)
        rows.update_attempt(attempt, finished_at=timezone.now(), reason=reason.reason)
        if _is_tried_again(attempt, reason):
            _wait_again(attempt, reason)
        else:
            _end_job(attempt, reason, run_id=run_id, model_version=model_version)
        SUPERVISOR_BELL.ring_on_commit()
    if model_version:
        model_registered.send(sender=Job, model_name=attempt.job.model_name, version=model_version)


def clean_up(attempt: Attempt) -> None:
    """Removes what an attempt has: container, script folder, MLflow user.

    An end is final only when nothing of it is left, so this comes first; done twice it is harmless.
    A user who cannot be deleted now is found again by `delete_users_left_behind`.
    """
    clean_up_here(attempt)
    delete_user(attempt)


def clean_up_here(attempt: Attempt) -> None:
    """What an attempt has on this host; the supervisor's part, who waits for no other server."""
    if attempt.container_id:
        engine_room.engine().remove(attempt.container_id)
    waiting.forget(attempt)
    containers.remove_script(attempt)


def delete_user(attempt: Attempt) -> bool:
    """From here on the attempt's password opens nothing; whether that is so."""
    if not attempt.mlflow_username:
        return True
    try:
        model_registry().delete_job_user(attempt.mlflow_username)
    except (RegistryUnavailable, RegistryRefused):
        log.warning("job.user_not_deleted", extra={"attempt": attempt.pk})
        return False
    Attempt.objects.filter(pk=attempt.pk).update(mlflow_username="")
    return True


def delete_users_left_behind() -> None:
    """Users of ended attempts who could not be deleted yet; not while MLflow is away or hangs."""
    ended = Attempt.objects.filter(finished_at__isnull=False)
    left = list(ended.exclude(mlflow_username="").order_by("id")[:USERS_AT_ONCE])
    if left and model_registry().available(timeout_seconds=MLFLOW_SECONDS):
        all(delete_user(attempt) for attempt in left)


def retry_delay(attempts: int) -> timedelta:
    """How long a job waits before it is tried again: 2, 8, 32 … seconds, at most five minutes."""
    return timedelta(seconds=min(2 * 4 ** (attempts - 1), 300))


def keep_exit_facts(attempt: Attempt) -> bool:
    """Into the row before the container goes, with the rest of its log; whether it has ended.

    A finish that is interrupted reads them there. Raises EngineUnavailable, LeaseLost.
    """
    if attempt.exit_code is not None:
        return True
    engine = engine_room.engine()
    state = engine.state(attempt.container_id)
    if state is None or (state.exit_code is None and not state.running):
        return True
    if state.exit_code is None:
        return False
    output_is_whole = logs.take_the_rest(attempt, engine)
    rows.update_attempt(
        attempt,
        output_is_whole=output_is_whole,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        container_ended_at=state.finished_at or timezone.now(),
    )
    return True


# -- the steps -----------------------------------------------------------------------------------
@contextlib.contextmanager
def _failures_counted(attempt: Attempt) -> Iterator[None]:
    """A finish that fails in a way nobody foresaw is in the timeline, and is not tried for ever."""
    failed = True
    try:
        yield
        failed = False
    except rows.LeaseLost:
        failed = False
        raise
    finally:
        if failed:
            with contextlib.suppress(DatabaseError):
                rows.record(attempt.job, FINISH_FAILED, actor=rows.WORKER, attempt=attempt)


def _finish(attempt: Attempt) -> None:
    if _failed_too_often(attempt):
        end(attempt, script_failure(attempt) or EndReason.of(Reason.INTERNAL_ERROR))
        return
    if not keep_exit_facts(attempt):
        # Asked too early: removing it now would kill a script that runs.
        _give_back(attempt)
        return
    registry = model_registry()
    reason = script_failure(attempt)
    if reason is not None and reason.reason is Reason.SCRIPT_ERROR:
        reason = _sent_too_much(registry, attempt, said=_tail(attempt)) or reason
    # While MLflow is away nothing below can be done; the container need not wait for it.
    engine_room.engine().remove(attempt.container_id)
    registry.end_runs(containers.attempt_tag(attempt), succeeded=reason is None)
    if reason is None:
        reason = _register_model(registry, attempt)
        if reason is None:
            return
    run_id = _newest_run(registry, attempt)
    clean_up(attempt)
    end(attempt, reason, run_id=run_id)


def script_failure(attempt: Attempt) -> EndReason | None:
    """Why the script failed, from what is in the row; None when its model decides."""
    if attempt.intent == Intent.CANCEL or attempt.job.cancel_requested_at is not None:
        return EndReason.of(Reason.CANCELLED)
    if attempt.exit_code is None and not attempt.intent:
        return EndReason.of(
            Reason.ENGINE_UNAVAILABLE, sentence="The job's container disappeared while it ran."
        )
    return failure_of(
        ExitFacts(
            # Without one our own decision is the fact that counts.
            exit_code=CONTAINER_IS_GONE if attempt.exit_code is None else attempt.exit_code,
            oom_killed=attempt.oom_killed,
            intent=attempt.intent,
            seconds=_seconds_run(attempt),
            timeout_seconds=attempt.job.timeout_seconds,
            grace_seconds=settings.JOB_GRACE_SECONDS,
            output_is_whole=attempt.output_is_whole,
            log_tail=_tail(attempt),
            tracking_uri=settings.MLFLOW_TRACKING_URI,
            memory_mb=attempt.job.memory_mb,
            peak_memory_bytes=attempt.peak_memory_bytes,
            printed_too_much=logs.stored_end(attempt, LogChunk.Part.RUN)
            > settings.JOB_LOG_HARD_BYTES,
        )
    )


def _tail(attempt: Attempt) -> str:
    return logs.tail_of(attempt, size=LOG_TAIL_BYTES)


def _sent_too_much(
    registry: ModelRegistry, attempt: Attempt, *, said: str | None = None
) -> EndReason | None:
    """Where MLflow took no more of its files; and, of a script that failed, where it says so too:
    it may have failed of something else.
    """
    if not attempt.mlflow_username:
        return None
    refused = registry.refused_upload(attempt.mlflow_username)
    if not refused or (said is not None and refused not in said):
        return None
    return EndReason.of(Reason.ARTIFACT_LIMIT, sentence=refused)


def _seconds_run(attempt: Attempt) -> float:
    if attempt.container_started_at is None or attempt.container_ended_at is None:
        return 0.0
    return (attempt.container_ended_at - attempt.container_started_at).total_seconds()


def _register_model(registry: ModelRegistry, attempt: Attempt) -> EndReason | None:
    """Registers the model and ends the job; or says why there is none to register."""
    model, reason = _choose_model(registry, attempt)
    if model is None:
        return reason
    if attempt.job.phase != Phase.REGISTERING:
        rows.enter_phase(attempt, Phase.REGISTERING)
    attempt.job.refresh_from_db(fields=["cancel_requested_at"])
    if attempt.job.cancel_requested_at is not None:
        return EndReason.of(Reason.CANCELLED)
    try:
        version = _register(registry, attempt, model)
    except RegistryRefused as error:
        log.error("job.model_refused", extra={"job": str(attempt.job_id)})
        return EndReason.of(Reason.MODEL_REFUSED, sentence=str(error.detail))
    clean_up(attempt)
    end(
        attempt,
        EndReason.of(Reason.SUCCEEDED),
        run_id=model.run_id,
        model_version=version.version,
    )
    return None


def _newest_run(registry: ModelRegistry, attempt: Attempt) -> str:
    runs = registry.runs_of_attempt(containers.attempt_tag(attempt))
    return runs[0] if runs else ""


def _choose_model(
    registry: ModelRegistry, attempt: Attempt
) -> tuple[LoggedModel | None, EndReason | None]:
    """The model that was logged last and is wholly stored; or why there is none."""
    logged = _own(registry, attempt, registry.logged_models(containers.attempt_tag(attempt)))
    ready = [model for model in logged if model.ready]
    if ready:
        return ready[-1], None
    missing = Reason.MODEL_NOT_READY if logged else Reason.NO_MODEL_LOGGED
    return None, _sent_too_much(registry, attempt) or EndReason.of(missing)


def _own(registry: ModelRegistry, attempt: Attempt, logged: list[LoggedModel]) -> list[LoggedModel]:
    """Without those that another job's script tagged as this one's, where it may write itself."""
    if not attempt.mlflow_username:
        return logged
    experiments = registry.experiments_of(attempt.mlflow_username)
    if experiments is None:
        return logged
    foreign = [model.model_id for model in logged if model.experiment_id not in experiments]
    if foreign:
        log.error("job.forged_models", extra={"job": str(attempt.job_id), "models": foreign})
    return [model for model in logged if model.experiment_id in experiments]


def _register(registry: ModelRegistry, attempt: Attempt, model: LoggedModel) -> ModelVersion:
    """A version made by an earlier, interrupted try is found again, never made twice."""
    job = attempt.job
    found = registry.version_of_logged_model(job.model_name, model)
    if found is not None:
        return found
    tags = {
        **job.tags,
        "mlops.job_id": str(job.pk),
        "mlops.environment": job.environment_key,
        "mlops.python_version": job.python_version,
        "mlops.requirements": json.dumps(job.requirements),
    }
    return registry.register_logged_model(job.model_name, model, tags=tags)


def _failed_too_often(attempt: Attempt) -> bool:
    """Then the attempt ends without anything else; the supervisor finds what it leaves behind."""
    failures = attempt.job.events.filter(name=FINISH_FAILED, attempt=attempt.number)
    return failures.count() >= FINISH_FAILURES_MAX


def _give_back(attempt: Attempt) -> None:
    rows.update_attempt(attempt, lease_owner=rows.SUPERVISOR)


def _try_again_later(attempt: Attempt) -> None:
    """MLflow is away: the supervisor asks again, for ten minutes after the container's end."""
    ended_at = attempt.container_ended_at
    patience = timedelta(seconds=FINISH_PATIENCE_SECONDS)
    if ended_at is not None and timezone.now() - ended_at < patience:
        _give_back(attempt)
        return
    clean_up(attempt)
    reason = Reason.REGISTRY_UNAVAILABLE if attempt.exit_code == 0 else Reason.TRACKING_UNAVAILABLE
    end(attempt, script_failure(attempt) or EndReason.of(reason))


# -- the end -------------------------------------------------------------------------------------
def _what_was_asked(job: Job, reason: EndReason) -> EndReason:
    """Whatever failed: somebody who was told that the job will be cancelled sees it cancelled."""
    if job.cancel_requested_at is None or reason.status is Status.COMPLETED:
        return reason
    return reason if reason.reason is Reason.CANCELLED else EndReason.of(Reason.CANCELLED)


def _is_tried_again(attempt: Attempt, reason: EndReason) -> bool:
    """Attempts that the operator stopped do not count: they may stop the platform at any time."""
    if not reason.ending.retried_by_us:
        return False
    failed = attempt.job.attempts.exclude(reason=Reason.PLATFORM_STOPPED).count()
    return failed < settings.JOB_MAX_ATTEMPTS


def _wait_again(attempt: Attempt, reason: EndReason) -> None:
    job = attempt.job
    delay = retry_delay(attempt.number)
    rows.move(job, Status.QUEUED)
    job.phase = Phase.WAITING
    job.not_before = timezone.now() + delay
    job.save(update_fields=["status", "phase", "not_before", "revision"])
    detail = f"{reason.sentence} Tried again in {delay.total_seconds():.0f} s."
    rows.record(job, "retry", detail, actor=rows.WORKER, attempt=attempt, reason=reason.reason)
    log.warning("job.retry", extra={"job": str(job.pk), "reason": str(reason.reason)})


def _end_job(attempt: Attempt, reason: EndReason, *, run_id: str, model_version: str) -> None:
    job = attempt.job
    rows.move(job, reason.status)
    rows.tell_end(job, reason)
    job.run_id = run_id
    job.model_version = model_version
    job.save()
    rows.record(
        job,
        str(reason.status),
        reason.sentence,
        actor=rows.WORKER,
        attempt=attempt,
        reason=reason.reason,
    )
    log.info("job.ended", extra={"job": str(job.pk), "reason": str(reason.reason)})
