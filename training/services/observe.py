"""What the supervisor writes: leases renewed and taken over, decisions, what lost its holder."""

import logging
import uuid
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from registry.mlflow_client import RegistryRefused, RegistryUnavailable, model_registry
from sandbox.engine import Engine, EngineError, EngineUnavailable
from training import containers, engine_room, logs
from training.models import Attempt, EngineCapacity, SupervisorLease
from training.services import rows
from training.services.finish import ask_to_finish, clean_up, end
from training.states import EndReason, Intent, Phase, Reason

log = logging.getLogger(__name__)

INTENT_WORDS = {
    Intent.CANCEL: "somebody cancelled it",
    Intent.DEADLINE: "its time is over",
    Intent.LOG_QUOTA: "it printed more than it may",
}
SUPERVISOR_LEASE_SECONDS = 15
# Beyond the grace: the launcher in the container acts first; this is for when it cannot.
DEADLINE_SLACK_SECONDS = 5


def hold_engine(engine: str, holder: uuid.UUID) -> bool:
    """Whether this supervisor acts for the engine: it holds the lease, or takes a free one."""
    now = timezone.now()
    expires = now + timedelta(seconds=SUPERVISOR_LEASE_SECONDS)
    free = Q(holder=holder) | Q(expires_at__lt=now)
    if SupervisorLease.objects.filter(free, engine=engine).update(
        holder=holder, expires_at=expires
    ):
        return True
    try:
        with transaction.atomic():
            SupervisorLease.objects.create(engine=engine, holder=holder, expires_at=expires)
    except IntegrityError:
        return False
    return True


def release_engine(engine: str, holder: uuid.UUID) -> None:
    """The next supervisor need not wait for the lease to run out."""
    SupervisorLease.objects.filter(engine=engine, holder=holder).delete()


def note_room(room: EngineCapacity) -> None:
    """What the engine's host has now."""
    values = {
        field.attname: getattr(room, field.attname)
        for field in EngineCapacity._meta.concrete_fields
        if not field.primary_key
    }
    EngineCapacity.objects.update_or_create(engine=room.engine, defaults=values)


def renew_leases(attempt_ids: list[int]) -> None:
    """The supervisor has seen these containers: their attempts are alive."""
    expires = timezone.now() + timedelta(seconds=rows.LEASE_SECONDS)
    held = Attempt.objects.filter(pk__in=attempt_ids, finished_at=None, lease_owner=rows.SUPERVISOR)
    held.update(lease_expires_at=expires)


def decide(attempt: Attempt, intent: Intent) -> None:
    """Recorded before the container is touched: the end is decided by this, not by the kill.

    The first decision stands. Raises LeaseLost.
    """
    if attempt.intent:
        return
    actor = rows.CLOCK if intent == Intent.DEADLINE else rows.SUPERVISOR
    with transaction.atomic():
        rows.update_attempt(attempt, intent=intent, intent_at=timezone.now())
        rows.update_job(attempt, phase=Phase.STOPPING)
        rows.record(attempt.job, "stopping", INTENT_WORDS[intent], actor=actor, attempt=attempt)


def note_usage(attempt: Attempt, *, memory_bytes: int, cpu_seconds: float) -> None:
    """Keeps the highest memory and the latest CPU time that the engine reported."""
    open_attempt = Attempt.objects.filter(pk=attempt.pk, finished_at=None)
    open_attempt.filter(peak_memory_bytes__lt=memory_bytes).update(peak_memory_bytes=memory_bytes)
    open_attempt.filter(cpu_seconds__lt=cpu_seconds).update(cpu_seconds=cpu_seconds)


def expire_leases_of_the_dead() -> None:
    """Holders that were killed renew nothing: what they held need not wait for its lease's end.

    It only brings the end forward. Whoever takes over makes the token new, so that even a holder
    that was taken for dead stops at its next write.
    """
    held = Attempt.objects.filter(finished_at=None).exclude(lease_owner=rows.SUPERVISOR)
    for attempt in held.filter(lease_expires_at__gt=timezone.now()):
        if rows.has_ended(attempt.lease_owner):
            same = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token)
            same.filter(finished_at=None).update(lease_expires_at=timezone.now())
            log.warning("job.holder_died", extra={"attempt": attempt.pk})


def take_over(attempt: Attempt) -> None:
    """The supervisor takes a lease that has expired; the former holder's token is void.

    Raises LeaseLost.
    """
    if not rows.take_lease(
        attempt,
        rows.SUPERVISOR,
        lease_token=attempt.lease_token,
        lease_expires_at__lt=timezone.now(),
    ):
        raise rows.LeaseLost(str(attempt))


def end_unstarted(attempt: Attempt) -> None:
    """Whoever made the attempt ready is gone, and its script never ran. Raises LeaseLost."""
    clean_up(attempt)
    if attempt.job.cancel_requested_at is not None:
        end(attempt, EndReason.of(Reason.CANCELLED))
        return
    sentence = "The process that made the job ready died before the script started."
    end(attempt, EndReason.of(Reason.WORKER_LOST, sentence=sentence))


def end_overdue(engine: Engine) -> None:
    """For a supervisor that is gone: kills what should have ended, if nobody holds it.

    A worker does this before it takes new work, so that the deadline is kept without anybody else.
    """
    slack = timedelta(seconds=settings.JOB_GRACE_SECONDS + DEADLINE_SLACK_SECONDS)
    now = timezone.now()
    overdue = Attempt.objects.select_related("job").filter(
        finished_at=None, deadline_at__lt=now - slack, lease_expires_at__lt=now
    )
    for attempt in overdue:
        try:
            take_over(attempt)
            decide(attempt, Intent.DEADLINE)
        except rows.LeaseLost:
            continue
        engine.kill(attempt.container_id)
        ask_to_finish(attempt.pk)


def stop_everything() -> int:
    """The platform stops: what runs is given back to the queue. Returns how many attempts ended.

    Nobody else works on them any more when this is called, so their leases are taken by force. An
    attempt whose container cannot be ended now stays as it is, and the next supervisor finds it.
    """
    stopped = 0
    for attempt in Attempt.objects.select_related("job").filter(finished_at=None):
        if rows.take_lease(attempt, rows.SUPERVISOR):
            try:
                _stop_attempt(attempt)
                stopped += 1
            except (EngineError, EngineUnavailable):
                log.exception("job.not_stopped", extra={"attempt": attempt.pk})
    return stopped


def _stop_attempt(attempt: Attempt) -> None:
    """Raises EngineError, EngineUnavailable."""
    if attempt.container_id:
        engine = engine_room.engine()
        # Ended first: what it printed until then is then all there is to keep.
        engine.kill(attempt.container_id)
        logs.take_the_rest(attempt, engine)
    _end_runs(attempt)
    clean_up(attempt)
    cancelled = attempt.job.cancel_requested_at is not None
    end(attempt, EndReason.of(Reason.CANCELLED if cancelled else Reason.PLATFORM_STOPPED))


def _end_runs(attempt: Attempt) -> None:
    """So that MLflow does not show runs that nobody runs; it may be away already."""
    try:
        model_registry().end_runs(containers.attempt_tag(attempt), succeeded=False)
    except (RegistryUnavailable, RegistryRefused):
        log.warning("job.runs_left_open", extra={"attempt": attempt.pk})
