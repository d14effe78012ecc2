"""What a job has used beside what it may use, one meter each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from registry.console import size, size_of_bytes, span
from training.facts import JobFacts
from training.models import Attempt, Job

MIB = 1024 * 1024
NEARLY = 90


@dataclass(frozen=True)
class Meter:
    """`told` has both numbers with their unit; `percent` is 100 at most."""

    what: str
    told: str
    percent: int

    @property
    def is_nearly_full(self) -> bool:
        return self.percent >= NEARLY


def meters_of(job: Job, facts: JobFacts, *, now: datetime) -> Sequence[Meter]:
    """Of a job that was tried several times, time and CPU are those of the last try."""
    meters = []
    if facts.peak_memory_bytes:
        peak = facts.peak_memory_bytes / MIB
        told = f"{size(peak)} of {size(job.memory_mb)}"
        meters.append(_meter("Memory, peak", told, peak, job.memory_mb))
    last = facts.attempts[-1] if facts.attempts else None
    seconds = _seconds(last, now=now) if last else 0.0
    if last and seconds:
        if last.cpu_seconds:
            cpus = last.cpu_seconds / seconds
            told = f"{cpus:.2f} of {job.cpus:g}"
            meters.append(_meter("CPUs, on average", told, cpus, job.cpus))
        told = f"{span(seconds)} of {span(job.timeout_seconds)}"
        meters.append(_meter("Time in the container", told, seconds, job.timeout_seconds))
    kept = settings.JOB_LOG_MAX_BYTES
    told = f"{size_of_bytes(facts.log_bytes)}, {size_of_bytes(kept)} of a part are kept"
    meters.append(_meter("Printed", told, facts.log_bytes, kept))
    return meters


def _seconds(attempt: Attempt, *, now: datetime) -> float:
    began, ended = attempt.container_started_at, attempt.container_ended_at
    if began is None:
        return 0.0
    return max(0.0, ((ended or attempt.finished_at or now) - began).total_seconds())


def _meter(what: str, told: str, used: float, most: float) -> Meter:
    return Meter(what, told, min(100, round(100 * used / most)) if most else 0)
