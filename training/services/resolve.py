"""What a set of requirements would install: asked by the web process, found out by a worker.

The row is the order, as for jobs: the supervisor queues a task for it, one at a time, since workers
are there for jobs first. Answers are remembered, so that asking again costs a look at a row.
"""

import hashlib
import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone
from django_q.tasks import async_task

from registry import holds
from registry.doorbell import SUPERVISOR_BELL
from sandbox.engine import EngineError, EngineUnavailable
from sandbox.environments import BuildStopped, EnvironmentFailed, EnvironmentLock, whole_set
from training import engine_room
from training.models import Resolution
from training.modules import near_names
from training.python_versions import image_of
from training.services.claim import LOCAL_ENGINE, RESOLVE_PATIENCE_SECONDS, builders_busy
from training.states import ENDINGS, EndReason, Fault, Reason

log = logging.getLogger(__name__)

RESOLVE_TASK = "training.tasks.resolve"
RESOLVE_SECONDS = RESOLVE_PATIENCE_SECONDS - 20
# An index changes: an answer is true for a while, and a failure of ours passes sooner.
RESOLVED_FRESH = timedelta(days=1)
REFUSED_FRESH = timedelta(minutes=10)
FAILED_FRESH = timedelta(seconds=30)
KEPT = timedelta(days=7)
# Each is a row and some seconds of a worker, and anybody may ask.
OPEN_MAX = 20
Status = Resolution.Status


def ask(requirements: Sequence[str], *, python_version: str) -> Resolution | None:
    """What is known of the set; a worker is asked where nothing is, or where it is too old.

    None when too many are being resolved already. Raises EnvironmentFailed for what is no
    requirement.
    """
    name = _name(requirements, python_version)
    known = Resolution.objects.filter(set_hash=name).first()
    now = timezone.now()
    if known is not None and _is_fresh(known, now):
        return known
    Resolution.objects.filter(asked_at__lt=now - KEPT).exclude(set_hash=name).delete()
    if Resolution.objects.filter(status=Status.RESOLVING).count() >= OPEN_MAX:
        return None
    asked = {
        "requirements": list(requirements),
        "python_version": python_version,
        "status": Status.RESOLVING,
        "asked_at": now,
        "queued_at": None,
    }
    if known is None:
        known = Resolution.objects.get_or_create(set_hash=name, defaults=asked)[0]
    else:
        # Whoever else asks at this moment finds the row changed, and changes nothing.
        Resolution.objects.filter(pk=known.pk, asked_at=known.asked_at).update(**asked)
        known.refresh_from_db()
    SUPERVISOR_BELL.ring_on_commit()
    return known


def known(requirements: Sequence[str], *, python_version: str) -> Resolution | None:
    """What is known of the set already, or being found out; nobody is asked.

    Raises EnvironmentFailed for what is no requirement.
    """
    name = _name(requirements, python_version)
    found = Resolution.objects.filter(set_hash=name).first()
    return found if found is not None and _is_fresh(found, timezone.now()) else None


def dispatch() -> None:
    """Queues a task for the set that waits longest, unless one is being resolved.

    Again after a while: the task was lost, or its worker was killed.
    """
    unanswered = Resolution.objects.filter(status=Status.RESOLVING)
    if not unanswered.exists() or holds.is_draining(LOCAL_ENGINE):
        return
    now = timezone.now()
    late = now - timedelta(seconds=RESOLVE_PATIENCE_SECONDS)
    if unanswered.filter(queued_at__gte=late).exists() or builders_busy():
        return
    due = unanswered.filter(Q(queued_at=None) | Q(queued_at__lt=late)).order_by("asked_at").first()
    if due is not None and unanswered.filter(pk=due.pk).update(queued_at=now):
        async_task(RESOLVE_TASK, due.pk, save=False)


def ask_again() -> None:
    """The queue has lost its tasks. A worker that has one already answers it twice, no more."""
    Resolution.objects.filter(status=Status.RESOLVING).update(queued_at=None)


def answer(resolution_id: int) -> None:
    """From a set that was asked for to its lock, or to the reason why there is none."""
    resolution = Resolution.objects.filter(pk=resolution_id, status=Status.RESOLVING).first()
    if resolution is None:
        return
    try:
        found = _resolved(resolution)
    except EnvironmentFailed as error:
        _fail(resolution, reason_of(error))
    except BuildStopped:
        _fail(resolution, EndReason.of(Reason.ENVIRONMENT_BUILD_TIMEOUT))
    except (EngineError, EngineUnavailable):
        log.exception("resolution.engine_failed", extra={"resolution": resolution_id})
        _fail(resolution, EndReason.of(Reason.ENGINE_UNAVAILABLE))
    except OSError:
        log.exception("resolution.host_failed", extra={"resolution": resolution_id})
        _fail(resolution, EndReason.of(Reason.INTERNAL_ERROR))
    else:
        _write(
            resolution,
            status=Status.RESOLVED,
            lock=found.lock,
            environment_key=found.key,
            installed=found.installed,
        )


def reason_of(error: EnvironmentFailed) -> EndReason:
    """Why requirements cannot be installed; with the names that may have been meant."""
    hint = error.hint
    if error.reason == Reason.REQUIREMENTS_NOT_FOUND and error.package:
        near = near_names(error.package)
        hint = f"Did you mean {' or '.join(near)}? {hint}" if near else hint
    return EndReason.of(Reason(error.reason), sentence=error.detail, hint=hint)


def note_installed(environment_key: str) -> None:
    """A job has built this environment."""
    Resolution.objects.filter(environment_key=environment_key).update(installed=True)


def _resolved(resolution: Resolution) -> EnvironmentLock:
    store = engine_room.environments(image_of(resolution.python_version))
    stop = threading.Event()
    clock = threading.Timer(RESOLVE_SECONDS, stop.set)
    clock.daemon = True
    clock.start()
    try:
        return store.resolve(resolution.requirements, output=_unheard, stop=stop)
    finally:
        clock.cancel()


def _unheard(data: bytes) -> None:
    """The installer's lines: nobody follows a question."""


def _fail(resolution: Resolution, reason: EndReason) -> None:
    _write(
        resolution,
        status=Status.FAILED,
        reason=reason.reason,
        detail=reason.sentence,
        hint=reason.hint,
    )


def _write(resolution: Resolution, **values: str | bool) -> None:
    """Unless somebody has answered meanwhile; what an earlier answer said goes."""
    blank = {"lock": "", "environment_key": "", "installed": False}
    words = {"reason": "", "detail": "", "hint": ""}
    asked = Resolution.objects.filter(pk=resolution.pk, status=Status.RESOLVING)
    asked.update(**{**blank, **words, **values, "answered_at": timezone.now()})


def _is_fresh(known: Resolution, now: datetime) -> bool:
    if known.status == Status.RESOLVING or known.answered_at is None:
        return known.status == Status.RESOLVING
    age = now - known.answered_at
    if known.status == Status.RESOLVED:
        return age < RESOLVED_FRESH
    ours = ENDINGS[Reason(known.reason)].fault is Fault.PLATFORM
    return age < (FAILED_FRESH if ours else REFUSED_FRESH)


def _name(requirements: Sequence[str], python_version: str) -> str:
    wanted = "\n".join([f"python {python_version}", *whole_set(requirements)])
    return hashlib.sha256(wanted.encode()).hexdigest()
