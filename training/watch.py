"""Sees jobs change: one query a few times a second for all watched jobs, and only while some are.

A client that waits costs an entry in a dictionary, no thread. Nothing here writes.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import DatabaseError
from django.db.models import OuterRef, Subquery, Sum

from training.models import Attempt, Job, JobEvent
from training.states import TERMINAL

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Glimpse:
    """How far a job has come; each number only grows, so that a later look is never mistaken."""

    revision: int
    log_bytes: int
    last_event: int
    ended: bool

    def is_after(self, known: "Glimpse") -> bool:
        """Whether a client that knows `known` has something to see."""
        return (
            self.revision > known.revision
            or self.log_bytes > known.log_bytes
            or self.last_event > known.last_event
        )


Seen = dict[uuid.UUID, Glimpse]


def look(job_ids: list[uuid.UUID]) -> Seen:
    """The jobs as they are now, in one query; one that is missing does not exist (any more)."""
    attempts = Attempt.objects.filter(job=OuterRef("pk")).order_by().values("job")
    events = JobEvent.objects.filter(job=OuterRef("pk")).order_by("-id")
    jobs = Job.objects.filter(pk__in=job_ids).annotate(
        printed=Subquery(attempts.annotate(total=Sum("log_bytes")).values("total")),
        last_event=Subquery(events.values("id")[:1]),
    )
    found = jobs.order_by().values_list("pk", "revision", "printed", "last_event", "status")
    return {
        pk: Glimpse(revision, printed or 0, event or 0, ended=status in TERMINAL)
        for pk, revision, printed, event, status in found
    }


class Watch:
    """One job that somebody waits for. `latest` is None until it was looked at, or when gone."""

    def __init__(self) -> None:
        self.latest: Glimpse | None = None
        self.gone = False
        self.watchers = 0
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

    def see(self, glimpse: Glimpse | None) -> None:
        """A new look; wakes all who wait when it is another one."""
        if glimpse == self.latest and glimpse is not None:
            return
        self.latest, self.gone = glimpse, glimpse is None
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
        watch.watchers += 1
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
