"""What is told about jobs beside their own row: attempts, time per phase, place in the queue.

Read only, and for a whole page of jobs at once: the number of queries does not grow with the page.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from training.models import Attempt, Job, JobEvent
from training.services.claim import Waiting, waiting_of
from training.states import Phase

RERUNS_TOLD = 100
Moment = tuple[datetime, str]


@dataclass(frozen=True)
class JobFacts:
    """Of one job; `waiting` is None unless it is queued, `reruns` are the ids of later jobs.

    `moments` is when it entered which phase, oldest first; one may be named several times in a row.
    """

    attempts: tuple[Attempt, ...]
    moments: tuple[Moment, ...]
    phase_seconds: Mapping[str, float]
    reruns: tuple[uuid.UUID, ...]
    waiting: Waiting | None

    @property
    def peak_memory_bytes(self) -> int:
        return max((attempt.peak_memory_bytes for attempt in self.attempts), default=0)

    @property
    def cpu_seconds(self) -> float:
        return round(sum(attempt.cpu_seconds for attempt in self.attempts), 3)

    @property
    def log_bytes(self) -> int:
        return sum(attempt.log_bytes for attempt in self.attempts)


def facts_of(
    jobs: Sequence[Job], *, waiting: Mapping[uuid.UUID, Waiting] | None = None
) -> dict[uuid.UUID, JobFacts]:
    """By the id of the job, for each of these; with `waiting` where it was looked up already."""
    ids = [job.pk for job in jobs]
    attempts, moments, reruns = _attempts(ids), _moments(ids), _reruns(ids)
    if waiting is None:
        waiting = waiting_of(jobs)
    return {
        pk: JobFacts(
            attempts=tuple(attempts[pk]),
            moments=tuple(moments[pk]),
            phase_seconds=seconds_by_phase(moments[pk]),
            reruns=tuple(reruns[pk][:RERUNS_TOLD]),
            waiting=waiting.get(pk),
        )
        for pk in ids
    }


def seconds_by_phase(moments: Sequence[Moment]) -> dict[str, float]:
    """How long a job was in each phase that is over, over all attempts.

    The phase that lasts is left out: a job's document would differ each time that it is asked for.
    """
    seconds: dict[str, float] = defaultdict(float)
    for (at, phase), (end, _) in pairwise(moments):
        if phase != Phase.ENDED:
            seconds[phase] += max(0.0, (end - at).total_seconds())
    return {phase: round(value, 3) for phase, value in seconds.items()}


def _attempts(ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[Attempt]]:
    found: dict[uuid.UUID, list[Attempt]] = defaultdict(list)
    # What the engine said of a container is long, and nobody is told it here.
    for attempt in Attempt.objects.filter(job__in=ids).defer("readback").order_by("number"):
        found[attempt.job_id].append(attempt)
    return found


def _moments(ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[Moment]]:
    found: dict[uuid.UUID, list[Moment]] = defaultdict(list)
    events = JobEvent.objects.filter(job__in=ids).order_by("id")
    for job_id, at, phase in events.values_list("job_id", "at", "phase"):
        found[job_id].append((at, phase))
    return found


def _reruns(ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[uuid.UUID]]:
    found: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
    later = Job.objects.filter(rerun_of__in=ids).order_by("created_at", "id")
    for job_id, first in later.values_list("pk", "rerun_of_id"):
        found[first].append(job_id)
    return found
