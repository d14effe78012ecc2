"""Jobs as a list shows them: a state in words, why, how long, and what is beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from training.board import why_it_waits
from training.day import reason_words
from training.models import Job
from training.services.claim import Queue, look_at_queue, room_left
from training.states import Phase, Reason, Status

SENTENCE_CHARACTERS = 200


@dataclass(frozen=True)
class Row:
    """`detail` is what the job does, waits for, or ended of; `seconds` is None before it began.

    `percent` is the duration beside the longest one of the page.
    """

    job: Job
    detail: str
    seconds: float | None
    percent: int = 0

    @property
    def short_id(self) -> str:
        return str(self.job.pk)[:8]

    @property
    def is_alive(self) -> bool:
        return self.job.status in (Status.QUEUED, Status.RUNNING)

    @property
    def runs_since(self) -> datetime | None:
        """For what grows by itself while one looks."""
        return self.job.started_at if self.job.status == Status.RUNNING else None

    @property
    def why(self) -> str:
        """The failure in its own words, from the first line of them."""
        if self.job.status != Status.FAILED:
            return ""
        first = self.job.error.strip().partition("\n")[0]
        cut = len(first) > SENTENCE_CHARACTERS
        return f"{first[:SENTENCE_CHARACTERS]}…" if cut else first


def rows_of(jobs: Sequence[Job], *, now: datetime) -> list[Row]:
    """As many queries for one job as for many; none when nothing of it waits."""
    queue = None
    if any(job.status == Status.QUEUED for job in jobs):
        queue = look_at_queue(room_left())
    seconds = [_seconds(job, now=now) for job in jobs]
    longest = max((taken for taken in seconds if taken is not None), default=0.0)
    return [
        Row(job, _detail(job, queue, now=now), taken, _percent(taken, longest))
        for job, taken in zip(jobs, seconds, strict=True)
    ]


def _seconds(job: Job, *, now: datetime) -> float | None:
    if job.started_at is None:
        return None
    return max(0.0, ((job.completed_at or now) - job.started_at).total_seconds())


def _percent(seconds: float | None, longest: float) -> int:
    return round(100 * seconds / longest) if seconds and longest else 0


def _detail(job: Job, queue: Queue | None, *, now: datetime) -> str:
    if job.status == Status.QUEUED and queue is not None:
        return why_it_waits(job, queue.waiting(job, now=now), room=queue.room, now=now)
    if job.status == Status.RUNNING:
        return reason_words(Phase(job.phase)).lower()
    if job.status == Status.FAILED:
        return reason_words(Reason(job.reason)).lower()
    return ""
