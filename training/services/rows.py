"""Writes to jobs and attempts: guarded by the lease, told in an event, seen by who waits."""

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import connection, transaction
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


def me() -> str:
    """Who holds a lease: this process on this host."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_ended(holder: str) -> bool:
    """Whether `holder` is a process of this host that is gone; False when that cannot be known."""
    host, _, pid = holder.rpartition(":")
    return host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists()


def update_attempt(attempt: Attempt, **values: Any) -> None:
    """Raises LeaseLost when the token is not the one in the row, or the attempt is over."""
    held = Attempt.objects.filter(pk=attempt.pk, lease_token=attempt.lease_token, finished_at=None)
    if not held.update(**values):
        raise LeaseLost(str(attempt))
    for name, value in values.items():
        setattr(attempt, name, value)


def update_job(attempt: Attempt, **values: Any) -> None:
    """Changes the job of an attempt that is still held. Raises LeaseLost."""
    held = Job.objects.filter(
        pk=attempt.job_id,
        attempts__pk=attempt.pk,
        attempts__lease_token=attempt.lease_token,
        attempts__finished_at=None,
    ).exclude(status__in=TERMINAL)
    if not held.update(revision=F("revision") + 1, **values):
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
    """
    done = threading.Event()

    def keep() -> None:
        renewed, told = timezone.now(), False
        try:
            while not done.wait(LOOK_SECONDS):
                now = timezone.now()
                if now - renewed >= timedelta(seconds=LEASE_RENEW_SECONDS):
                    _renew(attempt)
                    renewed = now
                if not told and not _is_wanted(attempt):
                    told = True
                    unwanted()
        finally:
            connection.close()

    keeper = threading.Thread(target=keep, name="lease-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


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
