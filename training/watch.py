"""Sees jobs change: one query a few times a second for all watched jobs, and only while some are.

A client that waits costs an entry in a dictionary, no thread. Nothing here writes.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError
from django.db.models import OuterRef, Subquery, Sum

from training.models import Attempt, Job, JobEvent
from training.services.claim import Waiting, waiting_of
from training.states import TERMINAL

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# What a place in the queue is told from, and what is told of every job.
COLUMNS = (
    *("revision", "status", "priority", "created_at", "not_before"),
    *("memory_mb", "cpus", "gpus"),
)


@dataclass(frozen=True)
class Glimpse:
    """How far a job has come; each number only grows, so that a later look is never mistaken.

    What a queued job waits for comes and goes, without a new revision: others move, not the job.
    `looked_at` says which of two looks is the later one.
    """

    revision: int
    log_bytes: int
    last_event: int
    ended: bool
    waiting: Waiting | None = None
    looked_at: float = field(default=0.0, compare=False)

    def is_after(self, known: "Glimpse") -> bool:
        """Whether a client that knows `known` has something to see."""
        return (
            self.revision > known.revision
            or self.log_bytes > known.log_bytes
            or self.last_event > known.last_event
        )

    def tells_another_state(self, known: "Glimpse") -> bool:
        """Whether the job's document says something new, its output aside."""
        moved = self.looked_at > known.looked_at and self.waiting != known.waiting
        return self.revision > known.revision or moved


Seen = dict[uuid.UUID, Glimpse]


def look(job_ids: list[uuid.UUID]) -> Seen:
    """The jobs as they are now; one that is missing does not exist (any more).

    One query, and where some are queued a few more, however many they are.
    """
    looked_at = time.monotonic()
    attempts = Attempt.objects.filter(job=OuterRef("pk")).order_by().values("job")
    events = JobEvent.objects.filter(job=OuterRef("pk")).order_by("-id")
    jobs = Job.objects.filter(pk__in=job_ids).annotate(
        printed=Subquery(attempts.annotate(total=Sum("log_bytes")).values("total")),
        last_event=Subquery(events.values("id")[:1]),
    )
    found: list[Any] = list(jobs.order_by().only(*COLUMNS))
    waiting = waiting_of(found)
    return {
        job.pk: Glimpse(
            revision=job.revision,
            log_bytes=job.printed or 0,
            last_event=job.last_event or 0,
            ended=job.status in TERMINAL,
            waiting=waiting.get(job.pk),
            looked_at=looked_at,
        )
        for job in found
    }


class Watch:
    """One job that somebody waits for. `latest` is None until it was looked at, or when gone."""

    def __init__(self) -> None:
        self.latest: Glimpse | None = None
        self.gone = False
        self.watchers = 0
        self._joined_at = 0.0
        self._changed = asyncio.Event()

    async def until(self, is_enough: Callable[[Glimpse], bool], *, seconds: float) -> bool:
        """Waits for a look that is enough, or for the job to be deleted; False when time is over.

        An ended job changes no more, so its end is always enough.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._is_over(is_enough):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def join(self) -> None:
        self.watchers += 1
        self._joined_at = time.monotonic()

    def see(self, glimpse: Glimpse | None) -> None:
        """A new look; wakes all who wait when it is another one.

        So does the first look that began after somebody came: what is as it was before may be new
        to him, who read the job in between.
        """
        before, self.latest, self.gone = self.latest, glimpse, glimpse is None
        if glimpse is not None and glimpse == before and before.looked_at >= self._joined_at:
            return
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _is_over(self, is_enough: Callable[[Glimpse], bool]) -> bool:
        if self.gone:
            return True
        return self.latest is not None and (self.latest.ended or is_enough(self.latest))


class Watcher:
    """The process's one look at everything that is waited for; belongs to one event loop."""

    def __init__(self, look_at: Callable[[list[uuid.UUID]], Awaitable[Seen]]) -> None:
        self._look_at = look_at
        self._watched: dict[uuid.UUID, Watch] = {}
        self._polling: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, job_id: uuid.UUID) -> Iterator[Watch]:
        """The job is looked at while the block lasts."""
        watch = self._watched.setdefault(job_id, Watch())
        watch.join()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.ensure_future(self._poll())
        try:
            yield watch
        finally:
            watch.watchers -= 1
            if watch.watchers == 0:
                del self._watched[job_id]

    def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()

    async def _poll(self) -> None:
        while self._watched:
            await self._look_once(dict(self._watched))
            await asyncio.sleep(POLL_SECONDS)

    async def _look_once(self, watched: dict[uuid.UUID, Watch]) -> None:
        """A database that is away now is asked again: who waits must not be told of it."""
        try:
            seen = await self._look_at(list(watched))
        except DatabaseError:
            log.exception("follow.look_failed")
            return
        for job_id, watch in watched.items():
            watch.see(seen.get(job_id))
