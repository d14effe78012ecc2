"""What the supervisor writes: leases renewed and taken over, decisions, what lost its holder."""

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from registry.mlflow_client import RegistryRefused, RegistryUnavailable, model_registry
from sandbox import holders
from sandbox.engine import Engine, EngineError, EngineUnavailable
from training import containers, engine_room, logs
from training.models import Attempt, EngineCapacity, SupervisorLease, WaitingContainer
from training.services import claim, gpus, rows, waiting
from training.services.finish import (
    ask_to_finish,
    clean_up,
    clean_up_here,
    end,
    keep_exit_facts,
    script_failure,
)
from training.states import EndReason, Intent, Phase, Reason

log = logging.getLogger(__name__)

LOCK_FLAGS = os.O_RDWR | os.O_CREAT
_locks: dict[uuid.UUID, int] = {}

INTENT_WORDS = {
    Intent.CANCEL: "somebody cancelled it",
    Intent.DEADLINE: "its time is over",
    Intent.LOG_QUOTA: "it printed more than it may",
}
SUPERVISOR_LEASE_SECONDS = 15
# Beyond the grace: the launcher in the container acts first; this is for when it cannot.
DEADLINE_SLACK_SECONDS = 5
# Between a kill and the engine's word that the container has ended.
KILL_SECONDS = 10
# For launchers to send what they hold, when the platform stops.
TAIL_SECONDS = 2.0


def hold_engine(engine: str, holder: uuid.UUID) -> bool:
    """Whether this supervisor acts for the engine: it holds the lease, or takes a free one.

    Whoever gets the lock file just now need not wait for the lease to run out: the kernel took it
    from a holder that died. One that hangs keeps the lock, and loses the lease.
    """
    now = timezone.now()
    expires = now + timedelta(seconds=SUPERVISOR_LEASE_SECONDS)
    free = Q() if _lock_now(engine, holder) else Q(holder=holder) | Q(expires_at__lt=now)
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
    handle = _locks.pop(holder, None)
    if handle is not None:
        os.close(handle)


def _lock_now(engine: str, holder: uuid.UUID) -> bool:
    """Whether this call took the lock of the engine's supervisor; False when we had it before."""
    if holder in _locks:
        return False
    try:
        handle = os.open(settings.MLOPS_HOME / f"supervisor-{engine}.lock", LOCK_FLAGS, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    _locks[holder] = handle
    return True


def note_room(room: EngineCapacity) -> None:
    """What the engine's host has now."""
    values = {
        field.attname: getattr(room, field.attname)
        for field in EngineCapacity._meta.concrete_fields
        if not field.primary_key
    }
    EngineCapacity.objects.update_or_create(engine=room.engine, defaults=values)


def note_gpus(devices: Sequence[str]) -> None:
    """Which GPUs the engine's host has now."""
    gpus.note_devices(claim.LOCAL_ENGINE, devices)


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
    """Keeps the highest memory and the latest CPU time that the engine reported.

    Without what a container had used while it waited for its script.
    """
    waited = WaitingContainer.objects.filter(attempt=attempt).values_list("cpu_seconds", flat=True)
    cpu_seconds -= waited.first() or 0.0
    open_attempt = Attempt.objects.filter(pk=attempt.pk, finished_at=None)
    open_attempt.filter(peak_memory_bytes__lt=memory_bytes).update(peak_memory_bytes=memory_bytes)
    open_attempt.filter(cpu_seconds__lt=cpu_seconds).update(cpu_seconds=cpu_seconds)


def unattended() -> list[Attempt]:
    """Open attempts that nobody works on: the lease is over, or whoever held it died.

    Also what a supervisor had taken over when it was killed before it said how to go on.
    """
    alive = Attempt.objects.select_related("job").filter(finished_at=None)
    now = timezone.now()
    abandoned = {"lease_owner": rows.SUPERVISOR, "container_started_at": None}
    over = alive.filter(Q(lease_expires_at__lt=now) | Q(**abandoned))
    held = alive.filter(lease_expires_at__gte=now).exclude(lease_owner=rows.SUPERVISOR)
    return [*over, *(attempt for attempt in held if holders.is_gone(attempt.lease_owner))]


def take_over(attempt: Attempt) -> None:
    """The supervisor takes an unattended attempt; the former holder's token is void.

    Raises LeaseLost when somebody else was faster, or the holder renewed its lease meanwhile.
    """
    seen = {
        "lease_token": attempt.lease_token,
        "lease_owner": attempt.lease_owner,
        "lease_expires_at": attempt.lease_expires_at,
    }
    if not rows.take_lease(attempt, rows.SUPERVISOR, **seen):
        raise rows.LeaseLost(str(attempt))


def end_unstarted(attempt: Attempt) -> None:
    """Whoever made the attempt ready is gone, and its script never ran. Raises LeaseLost."""
    clean_up_here(attempt)
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
        try:
            engine.kill(attempt.container_id)
            if engine.state(attempt.container_id) is not None:
                engine.wait(attempt.container_id, timeout_seconds=KILL_SECONDS)
        except EngineError:
            log.exception("job.not_killed", extra={"attempt": attempt.pk})
            continue
        ask_to_finish(attempt.pk)


def stop_everything() -> int:
    """The platform stops: what runs is given back to the queue. Returns how many attempts ended.

    Nobody else works on them any more when this is called, so their leases are taken by force. A
    script that has ended already is not run again: the next start registers its model. What cannot
    be stopped now, since the engine is away, is found by the next start.
    """
    running = [attempt for attempt in _open_attempts() if _with_care(_is_to_be_stopped, attempt)]
    _have_tails_sent([attempt.container_id for attempt in running if attempt.container_id])
    stopped = sum(_with_care(_stop, attempt) for attempt in running)
    try:
        waiting.give_up_all(engine_room.engine())
    except (EngineError, EngineUnavailable):
        log.exception("waiting.not_removed")
    return stopped


def _open_attempts() -> list[Attempt]:
    return list(Attempt.objects.select_related("job").filter(finished_at=None))


def _with_care(step: Callable[[Attempt], bool], attempt: Attempt) -> bool:
    try:
        return step(attempt)
    except (EngineError, EngineUnavailable, rows.LeaseLost):
        log.exception("job.not_stopped", extra={"attempt": attempt.pk})
        return False


def _is_to_be_stopped(attempt: Attempt) -> bool:
    if not rows.take_lease(attempt, rows.SUPERVISOR):
        return False
    has_run = bool(attempt.container_id) and attempt.container_started_at is not None
    return not (has_run and _has_ended_by_itself(attempt))


def _have_tails_sent(container_ids: Sequence[str]) -> None:
    """Of what scripts printed last, which a kill would lose; all have the same short time.

    A launcher that is asked to end sends it at once, whatever its script does about it.
    """
    engine, until = engine_room.engine(), time.monotonic() + TAIL_SECONDS
    with contextlib.suppress(EngineError, EngineUnavailable):
        for container_id in container_ids:
            engine.terminate(container_id)
        for container_id in container_ids:
            left = until - time.monotonic()
            if left <= 0:
                return
            engine.wait(container_id, timeout_seconds=left)


def _stop(attempt: Attempt) -> bool:
    """Whether this ended the attempt."""
    if attempt.container_id:
        engine = engine_room.engine()
        # Ended first: what it printed until then is then all there is to keep.
        engine.kill(attempt.container_id)
        logs.take_the_rest(attempt, engine)
    _end_runs(attempt)
    clean_up(attempt)
    decided = script_failure(attempt) if attempt.intent else None
    end(attempt, decided or EndReason.of(Reason.PLATFORM_STOPPED))
    return True


def _end_runs(attempt: Attempt) -> None:
    """So that MLflow does not show runs that nobody runs; it may be away already."""
    try:
        model_registry().end_runs(containers.attempt_tag(attempt), succeeded=False)
    except (RegistryUnavailable, RegistryRefused):
        log.warning("job.runs_left_open", extra={"attempt": attempt.pk})


def _has_ended_by_itself(attempt: Attempt) -> bool:
    """Then its facts are in the row, whatever becomes of its container."""
    return keep_exit_facts(attempt) and attempt.exit_code is not None
