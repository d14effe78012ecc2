"""Writes to jobs and attempts: guarded by the lease, told in an event, seen by who waits."""

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.utils import timezone

from training.models import Attempt, Job, JobEvent
from training.states import TERMINAL, EndReason, Phase, Status, may_become

log = logging.getLogger(__name__)

LEASE_SECONDS = 60
LEASE_RENEW_SECONDS = 15
LOOK_SECONDS = 1.0
SUPERVISOR = "supervisor"
WORKER = "worker"
CLOCK = "clock"


class LeaseLost(Exception):
    """Somebody else holds this attempt now; whoever raised this must leave it alone."""


def update_attempt(attempt: Attempt, **values: Any) -> None:
    """Raises LeaseLost when the token is not the one in the row, or the attempt is over."""
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    if not held.update(**values):
        raise LeaseLost(str(attempt))
    for name, value in values.items():
        setattr(attempt, name, value)


def hold(attempt: Attempt) -> None:
    """In a transaction: nobody takes or ends the attempt before it is over. Raises LeaseLost.

    Whoever locks both locks the attempt first, then its job.
    """
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    if not held.select_for_update().values_list("pk").first():
        raise LeaseLost(str(attempt))


def update_job(attempt: Attempt, **values: Any) -> None:
    """Changes the job of an attempt that is still held. Raises LeaseLost."""
    with transaction.atomic():
        hold(attempt)
        alive = Job.objects.filter(pk=attempt.job_id).exclude(status__in=TERMINAL)
        if not alive.update(revision=F("revision") + 1, **values):
            raise LeaseLost(str(attempt))
    for name, value in values.items():
        setattr(attempt.job, name, value)


def enter_phase(attempt: Attempt, phase: Phase, *, actor: str = WORKER, **values: Any) -> None:
    """The job's new phase, in its row and in its timeline. Raises LeaseLost."""
    with transaction.atomic():
        update_job(attempt, phase=phase, **values)
        record(attempt.job, phase, actor=actor, attempt=attempt)


def move(job: Job, status: Status) -> None:
    """Changes the status of a row that was read in this transaction. Raises LeaseLost."""
    if not may_become(Status(job.status), status):
        raise LeaseLost(f"{job} cannot become {status}")
    job.status = status
    job.revision += 1


def record(
    job: Job,
    name: str,
    detail: str = "",
    *,
    actor: str,
    attempt: Attempt | None = None,
    reason: str = "",
) -> None:
    """One line of the job's timeline, with the status and phase that it has now."""
    JobEvent.objects.create(
        job=job,
        at=timezone.now(),
        name=name,
        status=job.status,
        phase=job.phase,
        attempt=attempt.number if attempt else None,
        actor=actor,
        reason=reason,
        detail=detail,
    )


def take_lease(attempt: Attempt, owner: str, **condition: Any) -> bool:
    """Makes `owner` the holder, and every older token void; whether `condition` held."""
    token = uuid.uuid4()
    expires = timezone.now() + timedelta(seconds=LEASE_SECONDS)
    taken = Attempt.objects.filter(pk=attempt.pk, finished_at=None, **condition).update(
        lease_owner=owner, lease_token=token, lease_expires_at=expires
    )
    if taken:
        attempt.refresh_from_db()
    return bool(taken)


@contextlib.contextmanager
def lease_kept(attempt: Attempt, *, unwanted: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Renews the lease from a thread while the block works: a build may take minutes.

    `unwanted` is called once, from that thread, when the job is cancelled or the lease is lost.
    When the block fails the lease is over at once, so that the supervisor need not wait for it.
    """
    done = threading.Event()
    keeper = _LeaseKeeper(attempt, unwanted, done)
    thread = threading.Thread(target=keeper.run, name="lease-keeper", daemon=True)
    thread.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        done.set()
        thread.join()
        if failed:
            _release(attempt)


class _LeaseKeeper:
    """One look a second: is the lease due to be renewed, is the work still wanted?"""

    def __init__(
        self, attempt: Attempt, unwanted: Callable[[], None], done: threading.Event
    ) -> None:
        self._attempt = attempt
        self._unwanted = unwanted
        self._done = done
        self._renewed_at = timezone.now()
        self._told = False

    def run(self) -> None:
        try:
            while not self._done.wait(LOOK_SECONDS):
                self._look_if_the_database_answers()
        finally:
            connection.close()

    def _look_if_the_database_answers(self) -> None:
        """A database that is locked for a while must not end the lease of a build of minutes."""
        try:
            self._look()
        except DatabaseError:
            log.warning("job.lease_not_renewed", extra={"attempt": self._attempt.pk})
            connection.close()

    def _look(self) -> None:
        now = timezone.now()
        if now - self._renewed_at >= timedelta(seconds=LEASE_RENEW_SECONDS):
            _renew(self._attempt)
            self._renewed_at = now
        if not self._told and not _is_wanted(self._attempt):
            self._told = True
            self._unwanted()


def _release(attempt: Attempt) -> None:
    """If it is still ours; a database that does not answer leaves it to run out."""
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    with contextlib.suppress(DatabaseError):
        # What failed may have been the connection: the next one is asked then.
        if not connection.is_usable():
            connection.close()
        held.exclude(lease_owner=SUPERVISOR).update(lease_expires_at=timezone.now())


def _renew(attempt: Attempt) -> None:
    expires = timezone.now() + timedelta(seconds=LEASE_SECONDS)
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    held.update(lease_expires_at=expires)


def _is_wanted(attempt: Attempt) -> bool:
    return Attempt.objects.filter(
        pk=attempt.pk,
        lease_token=attempt.lease_token,
        finished_at=None,
        job__cancel_requested_at=None,
    ).exists()


def tell_end(job: Job, reason: EndReason) -> None:
    """Puts the words of an end into a job that is about to be saved."""
    told = reason.status is not Status.COMPLETED
    job.phase = Phase.ENDED
    job.reason = reason.reason
    job.error = reason.sentence if told else ""
    job.hint = reason.hint.replace("{job_id}", str(job.pk)) if told else ""
    job.completed_at = timezone.now()
