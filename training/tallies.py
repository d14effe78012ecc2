"""Counts jobs by the few minutes in which they were accepted, so that a week costs no walk over it.

The supervisor counts: what is newest, what has open jobs, and, after a stop of its own, what it has
missed; a few spans at each look. Whoever reads finds at most one row for each span.
"""

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Subquery
from django.utils import timezone

from registry.steps import added, counted
from registry.windows import Window
from training.models import Attempt, Job, JobTallied, JobTally
from training.states import Status

SPAN = timedelta(minutes=5)
KEPT = timedelta(days=8)
LOOK_SECONDS = 15.0
# A job is written a moment after the time that it says it was accepted at.
LATE = timedelta(minutes=1)
# What one look may take; a week that was missed, or a span with many jobs, takes several.
SECONDS_AT_ONCE = 0.2
# How many spans are counted again at one look, since jobs of theirs were open.
SPANS_AT_ONCE = 12
# Seconds, each 1.33 times the one before: from a tenth of a second to ten days.
STEPS = tuple(round(0.1 * 1.33**number, 4) for number in range(57))
BATCH = 1000


@dataclass(frozen=True)
class Tally:
    """What is known of the jobs that were accepted from `begins_at` on, for as long as a bar is."""

    begins_at: datetime
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0
    waits: Sequence[int] = ()
    first_outputs: Sequence[int] = ()
    durations: Sequence[int] = ()

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def jobs(self) -> int:
        return self.ended + self.open


# What a row has of a tally.
COLUMNS = tuple(field.name for field in fields(Tally))


class JobTallies:
    """The supervisor's look: often called, seldom at work, and never for longer than a moment.

    What is not done by then goes on at the next look, where it stopped.
    """

    def __init__(self) -> None:
        self._next_at = 0.0
        self._work: Iterator[None] = iter(())
        self._is_at_work = False

    def look(self) -> None:
        """Raises DatabaseError, and begins anew at a later look then."""
        if not self._is_at_work:
            if time.monotonic() < self._next_at:
                return
            self._work = work_up_to(timezone.now())
        self._is_at_work = False
        self._next_at = time.monotonic() + LOOK_SECONDS
        deadline = time.monotonic() + SECONDS_AT_ONCE
        for _ in self._work:
            if time.monotonic() > deadline:
                self._is_at_work = True
                return


def count_up_to(now: datetime) -> None:
    """All that is due, however long that takes."""
    for _ in work_up_to(now):
        pass


def work_up_to(now: datetime) -> Iterator[None]:
    """Counts what is due: what was missed, oldest first, then what had jobs that were open.

    A step reads no more than `BATCH` jobs, so that it can be left between any two.
    """
    start = _counted_through(now)
    begin = _next_with_jobs(start)
    while begin is not None and begin <= now:
        yield from _count(begin, now=now)
        begin = _next_with_jobs(begin + SPAN)
        _remember(now if begin is None else min(now, begin))
        yield
    _remember(now)
    unsettled = JobTally.objects.filter(open__gt=0, begins_at__lt=start).order_by("counted_at")
    for earlier in list(unsettled.values_list("begins_at", flat=True)[:SPANS_AT_ONCE]):
        yield from _count(earlier, now=now)
        yield


def tallies_over(windows: Iterable[Window], *, now: datetime) -> dict[Window, list[Tally]]:
    """The bars of each, oldest first; the last one lasts still. One query for all of them."""
    firsts = {window: _first_of(window, now=now) for window in windows}
    counted = JobTally.objects.filter(begins_at__gte=min(firsts.values()), begins_at__lte=now)
    rows = [Tally(*row) for row in counted.values_list(*COLUMNS)]
    return {window: _in_bars(rows, window, first) for window, first in firsts.items()}


def forget_old(now: datetime | None = None) -> int:
    """What no chart shows any more; returns how many rows went."""
    old = JobTally.objects.filter(begins_at__lt=(now or timezone.now()) - KEPT)
    return old.delete()[0]


def begin_of(moment: datetime, length: timedelta) -> datetime:
    """When the span of this length began in which a moment is; spans are counted from 1970."""
    seconds = length.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, UTC)


def _counted_through(now: datetime) -> datetime:
    """The span that lasted when jobs were last counted, but nothing that no chart shows."""
    last = JobTallied.objects.filter(pk=JobTallied.THE_ONE).first()
    oldest = begin_of(now, SPAN) - KEPT
    return max(begin_of(last.through - LATE, SPAN), oldest) if last else oldest


def _next_with_jobs(start: datetime) -> datetime | None:
    """The next span in which a job was accepted; empty ones are passed over at once."""
    later = Job.objects.filter(created_at__gte=start).order_by("created_at", "id")
    first = later.values_list("created_at", flat=True).first()
    return None if first is None else begin_of(first, SPAN)


def _remember(through: datetime) -> None:
    JobTallied.objects.update_or_create(pk=JobTallied.THE_ONE, defaults={"through": through})


def _count(begin: datetime, *, now: datetime) -> Iterator[None]:
    """Of the whole span, written at its end: what is left halfway through begins anew."""
    counts = Counts()
    batch = _jobs_of(begin, after=None)
    while batch:
        counts.add(batch)
        if len(batch) < BATCH:
            break
        yield
        batch = _jobs_of(begin, after=batch[-1])
    if not counts.jobs:
        JobTally.objects.filter(pk=begin).delete()
        return
    told = {**counts.columns(), "counted_at": now}
    JobTally.objects.update_or_create(pk=begin, defaults=told)


@dataclass(frozen=True)
class Counted:
    """What is read of a job; `first_output_at` is when its script's first output was stored."""

    job_id: uuid.UUID
    status: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    first_output_at: datetime | None


class Counts:
    """Grows by batches of jobs."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._waits: list[int] = []
        self._first_outputs: list[int] = []
        self._durations: list[int] = []

    @property
    def jobs(self) -> int:
        return self._statuses.total()

    def add(self, batch: Sequence[Counted]) -> None:
        self._statuses.update(job.status for job in batch)
        waits = [_seconds(job.created_at, job.started_at) for job in batch]
        outputs = [_seconds(job.created_at, job.first_output_at) for job in batch]
        durations = [
            _seconds(job.started_at, job.completed_at)
            for job in batch
            if job.status == Status.COMPLETED
        ]
        self._waits = _grown(self._waits, waits)
        self._first_outputs = _grown(self._first_outputs, outputs)
        self._durations = _grown(self._durations, durations)

    def columns(self) -> dict[str, Any]:
        """As a tally has them."""
        return {
            "completed": self._statuses[Status.COMPLETED],
            "failed": self._statuses[Status.FAILED],
            "cancelled": self._statuses[Status.CANCELLED],
            "open": self._statuses[Status.QUEUED] + self._statuses[Status.RUNNING],
            "waits": self._waits,
            "first_outputs": self._first_outputs,
            "durations": self._durations,
        }


def _grown(counts: Sequence[int], seconds: Sequence[float | None]) -> list[int]:
    return added(counts, counted([value for value in seconds if value is not None], STEPS))


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())


def _jobs_of(begin: datetime, *, after: Counted | None) -> list[Counted]:
    """The next ones of a span, in the order of the index; a query of its own for each batch, so
    that nothing is held open between two of them."""
    within = Job.objects.filter(
        created_at__gte=after.created_at if after else begin, created_at__lt=begin + SPAN
    )
    if after is not None:
        within = within.exclude(created_at=after.created_at, id__lte=after.job_id)
    # What it printed when it was tried again was not its first line.
    printed = Attempt.objects.filter(job=OuterRef("pk"), first_output_at__isnull=False)
    first = Subquery(printed.order_by("number").values("first_output_at")[:1])
    columns = ("pk", "status", "created_at", "started_at", "completed_at")
    rows = within.order_by("created_at", "id").values_list(*columns, first)[:BATCH]
    return [Counted(*row) for row in rows]


def _first_of(window: Window, *, now: datetime) -> datetime:
    """When the oldest bar begins."""
    length = window.length / window.bars
    return begin_of(now, length) - (window.bars - 1) * length


def _in_bars(rows: Sequence[Tally], window: Window, first: datetime) -> list[Tally]:
    length = window.length / window.bars
    found: dict[int, Tally] = {}
    for row in rows:
        if row.begins_at >= first:
            number = int((row.begins_at - first) / length)
            found[number] = _together(found.get(number), row, first + number * length)
    return [found.get(number) or Tally(first + number * length) for number in range(window.bars)]


def _together(first: Tally | None, second: Tally, begins_at: datetime) -> Tally:
    if first is None:
        return replace(second, begins_at=begins_at)
    return Tally(
        begins_at,
        completed=first.completed + second.completed,
        failed=first.failed + second.failed,
        cancelled=first.cancelled + second.cancelled,
        open=first.open + second.open,
        waits=added(first.waits, second.waits),
        first_outputs=added(first.first_outputs, second.first_outputs),
        durations=added(first.durations, second.durations),
    )
