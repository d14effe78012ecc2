"""The last day of jobs: how many, how they ended, how long they waited and took, why they failed.

Read only, in one query. Of a day with more jobs than `JOBS_READ` the newest are told of, and that
it is so: what a page costs has a bound.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from django.db.models.functions import Substr

from training.models import Job
from training.states import ENDINGS, Reason, Status

JOBS_READ = 2000
HOURS = 24
SENTENCE_CHARACTERS = 300


@dataclass(frozen=True)
class Past:
    """One job of the day."""

    job_id: uuid.UUID
    status: str
    reason: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    error: str


@dataclass(frozen=True)
class Spread:
    """Half of them were at most `p50`, 95 of 100 at most `p95`; both None without any."""

    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True)
class Failures:
    """Jobs that failed for one reason; `error` and `job_id` are of the last one."""

    reason: str
    words: str
    count: int
    error: str
    job_id: uuid.UUID
    last_at: datetime


@dataclass(frozen=True)
class Hour:
    """Jobs by the hour in which they were accepted; `open` have no end yet."""

    starts_at: datetime
    completed: int
    failed: int
    cancelled: int
    open: int

    @property
    def jobs(self) -> int:
        return self.completed + self.failed + self.cancelled + self.open


@dataclass(frozen=True)
class Day:
    """`is_whole` is false when there were more jobs than are told of here."""

    jobs: int
    is_whole: bool
    since: datetime
    completed: int
    failed: int
    cancelled: int
    wait: Spread
    duration: Spread
    failures: Sequence[Failures]
    hours: Sequence[Hour]

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def open(self) -> int:
        """Jobs that wait or run."""
        return self.jobs - self.ended

    @property
    def success_percent(self) -> float | None:
        return None if self.ended == 0 else 100 * self.completed / self.ended


def last_day(*, now: datetime) -> Day:
    since = now - timedelta(hours=HOURS)
    newest = Job.objects.filter(created_at__gte=since).order_by("-created_at", "-id")
    columns = ("pk", "status", "reason", "created_at", "started_at", "completed_at")
    told = newest.values_list(*columns, Substr("error", 1, SENTENCE_CHARACTERS))
    past = [Past(*row) for row in told[: JOBS_READ + 1]]
    is_whole = len(past) <= JOBS_READ
    return day_of(past[:JOBS_READ], is_whole=is_whole, now=now)


def day_of(past: Sequence[Past], *, is_whole: bool, now: datetime) -> Day:
    """Of the jobs of a day, newest first."""
    counts = Counter(job.status for job in past)
    whole_day = now - timedelta(hours=HOURS)
    return Day(
        jobs=len(past),
        is_whole=is_whole,
        since=whole_day if is_whole or not past else past[-1].created_at,
        completed=counts[Status.COMPLETED],
        failed=counts[Status.FAILED],
        cancelled=counts[Status.CANCELLED],
        wait=spread_of([_between(job.created_at, job.started_at) for job in past]),
        duration=spread_of(
            [
                _between(job.started_at, job.completed_at)
                for job in past
                if job.status == Status.COMPLETED
            ]
        ),
        failures=_failures(past),
        hours=_hours(past, now=now),
    )


def spread_of(seconds: Sequence[float | None]) -> Spread:
    """By nearest rank: what is told was really measured once."""
    known = sorted(value for value in seconds if value is not None)
    if not known:
        return Spread(0, None, None)
    p50, p95 = (known[ceil(part * len(known)) - 1] for part in (0.5, 0.95))
    return Spread(len(known), p50, p95)


def reason_words(reason: str) -> str:
    """`Missing module`, `Out of memory`."""
    return reason.replace("_", " ").capitalize()


def _between(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())


def _failures(past: Sequence[Past]) -> list[Failures]:
    """The most frequent reason first."""
    failed = [job for job in past if job.status == Status.FAILED]
    counts = Counter(job.reason for job in failed)
    last: dict[str, Past] = {}
    for job in failed:
        last.setdefault(job.reason, job)
    return [
        Failures(
            reason=reason,
            words=reason_words(reason),
            count=count,
            error=last[reason].error or ENDINGS[Reason(reason)].sentence,
            job_id=last[reason].job_id,
            last_at=last[reason].completed_at or last[reason].created_at,
        )
        for reason, count in counts.most_common()
    ]


def _hours(past: Sequence[Past], *, now: datetime) -> list[Hour]:
    """Oldest first; the last one is the hour that lasts."""
    begin = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    counts = Counter(
        (int((job.created_at - begin).total_seconds() // 3600), job.status) for job in past
    )
    return [
        Hour(
            starts_at=begin + timedelta(hours=number),
            completed=counts[(number, Status.COMPLETED)],
            failed=counts[(number, Status.FAILED)],
            cancelled=counts[(number, Status.CANCELLED)],
            open=counts[(number, Status.QUEUED)] + counts[(number, Status.RUNNING)],
        )
        for number in range(HOURS)
    ]
