"""The last day of jobs: how they ended, how long they waited and took, and why they failed.

How many there were and how long they took is what the supervisor has counted (`tallies`), some
seconds ago at most; failures are read as they are. What a page costs has a bound.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models.functions import Substr

from registry.steps import percentile, summed
from registry.windows import DAY
from training.models import Job
from training.states import ENDINGS, Reason, Status
from training.tallies import STEPS, Tally

FAILURES_READ = 500
SENTENCE_CHARACTERS = 300


@dataclass(frozen=True)
class Spread:
    """Seconds: half of them were at most `p50`, 95 of 100 at most `p95`; both None without any."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True)
class Failed:
    """One job that failed."""

    job_id: uuid.UUID
    reason: str
    created_at: datetime
    completed_at: datetime | None
    error: str


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
class Day:
    """`failures_are_whole` is false when there were more than are told of here."""

    completed: int
    failed: int
    cancelled: int
    wait: Spread
    duration: Spread
    failures: Sequence[Failures]
    failures_are_whole: bool

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def failures_told(self) -> int:
        return sum(failures.count for failures in self.failures)

    @property
    def success_percent(self) -> float | None:
        return None if self.ended == 0 else 100 * self.completed / self.ended


def last_day(bars: Sequence[Tally], *, now: datetime) -> Day:
    """`bars` are what was counted of it. One query, for the failures."""
    failed = _failed_since(now - DAY.length)
    return Day(
        completed=sum(bar.completed for bar in bars),
        failed=sum(bar.failed for bar in bars),
        cancelled=sum(bar.cancelled for bar in bars),
        wait=spread_of(summed(bar.waits for bar in bars)),
        duration=spread_of(summed(bar.durations for bar in bars)),
        failures=_failures(failed[:FAILURES_READ]),
        failures_are_whole=len(failed) <= FAILURES_READ,
    )


def spread_of(counts: Sequence[int]) -> Spread:
    """Of seconds that were counted by `STEPS`."""
    p50, p95 = (percentile(counts, STEPS, share) for share in (0.5, 0.95))
    return Spread(_rounded(p50), _rounded(p95))


def reason_words(reason: str) -> str:
    """`Missing module`, `Out of memory`."""
    return reason.replace("_", " ").capitalize()


def _failed_since(since: datetime) -> list[Failed]:
    """Newest first, and one more than is told of."""
    newest = Job.objects.filter(status=Status.FAILED, created_at__gte=since)
    columns = ("pk", "reason", "created_at", "completed_at")
    told = newest.order_by("-created_at", "-id").values_list(
        *columns, Substr("error", 1, SENTENCE_CHARACTERS)
    )
    return [Failed(*row) for row in told[: FAILURES_READ + 1]]


def _failures(failed: Sequence[Failed]) -> list[Failures]:
    """The most frequent reason first."""
    counts = Counter(job.reason for job in failed)
    last: dict[str, Failed] = {}
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


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
