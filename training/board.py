"""What runs and what waits now, how far it is and why it is not further: for people who look.

Read only. The number of queries is the same for an empty queue and a full one, and none of them
reads what has ended but for the last few jobs of an experiment, by whose durations a running one is
judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import (
    Avg,
    DurationField,
    ExpressionWrapper,
    F,
    OuterRef,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.functions import Coalesce

from registry.console import size, span, visible
from registry.holds import Held
from training.models import Job
from training.services.claim import Queue, Room, Waiting
from training.states import Phase, Status

RUNNING_SHOWN, WAITING_SHOWN = 10, 5
# How many of an experiment's last jobs are looked through for earlier runs of the same script.
LAST_OF_EXPERIMENT = 20
COLUMNS = (
    *("script_name", "experiment_name", "model_name", "owner", "priority", "status", "phase"),
    *("created_at", "started_at", "completed_at", "not_before", "timeout_seconds"),
    *("memory_mb", "cpus", "gpus"),
)
HELD_WORDS = {
    Held.PAUSED: "admission is paused by {by}",
    Held.DRAINING: "the worker is being drained by {by}",
}
SHORT_OF = {
    "engine": "Docker does not answer",
    "disk": "the disk is nearly full",
    "mlflow": "MLflow does not answer",
    "network": "the firewall is not proved to hold",
    "slots": "no free slot",
    "builders": "all builders are busy",
    "": "is being taken",
}


@dataclass(frozen=True)
class Running:
    """A job that runs; `usual_seconds` is None when its script never completed before."""

    job: Job
    began_at: datetime
    seconds: float
    usual_seconds: float | None

    @property
    def words(self) -> str:
        return state_words(self.job)

    @property
    def percent(self) -> int:
        """Of the usual time, or else of the time that it may take; 100 at most."""
        whole = self.usual_seconds or self.job.timeout_seconds
        return min(100, round(100 * self.seconds / max(whole, 0.1)))

    @property
    def is_over(self) -> bool:
        return self.usual_seconds is not None and self.seconds > self.usual_seconds

    @property
    def of(self) -> str:
        if self.usual_seconds is None:
            return f"at most {span(self.job.timeout_seconds)}"
        return f"{'over' if self.is_over else 'of'} ~{span(self.usual_seconds)}"


@dataclass(frozen=True)
class Waits:
    """A job that waits, and why, in words."""

    job: Job
    position: int
    why: str


@dataclass(frozen=True)
class Board:
    """`running` and `waiting` are the oldest of their kind, and may be fewer than the counts.

    `any_job` is whether there ever was one.
    """

    running_count: int
    waiting_count: int
    running: Sequence[Running]
    waiting: Sequence[Waits]
    oldest_at: datetime | None
    any_job: bool

    @property
    def waiting_more(self) -> int:
        return self.waiting_count - len(self.waiting)

    @property
    def running_more(self) -> int:
        return self.running_count - len(self.running)


def board_of(queue: Queue, *, now: datetime) -> Board:
    """Two queries more than the queue took."""
    jobs = Job.objects.only(*COLUMNS).order_by("created_at", "id")
    running = list(with_usual(jobs.filter(status=Status.RUNNING))[:RUNNING_SHOWN])
    queued = jobs.filter(status=Status.QUEUED)[:WAITING_SHOWN]
    waiting = list(queued) if queue.ranks else []
    return Board(
        running_count=max(queue.room.running, len(running)),
        waiting_count=max(len(queue.ranks), len(waiting)),
        running=[_running(job, now=now) for job in running],
        waiting=[_waits(job, queue, now=now) for job in waiting],
        oldest_at=queue.oldest,
        any_job=bool(running or waiting) or Job.objects.exists(),
    )


def with_usual(jobs: QuerySet[Job]) -> QuerySet[Any]:
    """Each job with `usual`: what its script took on average when it completed lately, or None.

    Of the experiment's last few jobs, found by its own index: an experiment of a million jobs costs
    as much as one of twenty.
    """
    last = Job.objects.filter(experiment_name=OuterRef(OuterRef("experiment_name")))
    lately = last.order_by("-created_at", "-id").values("pk")[:LAST_OF_EXPERIMENT]
    # As an expression: the database would walk all that ever completed, by the index of statuses.
    ended_as = Coalesce("status", Value(""))
    completed = Job.objects.alias(ended_as=ended_as).filter(
        pk__in=lately, script_name=OuterRef("script_name"), ended_as=Status.COMPLETED
    )
    took = ExpressionWrapper(F("completed_at") - F("started_at"), output_field=DurationField())
    mean = completed.order_by().values("script_name").annotate(took=Avg(took)).values("took")
    return jobs.annotate(usual=Subquery(mean))


def _running(job: Any, *, now: datetime) -> Running:
    began = job.started_at or job.created_at
    usual = None if job.usual is None else job.usual.total_seconds()
    return Running(job, began, max(0.0, (now - began).total_seconds()), usual)


def _waits(job: Job, queue: Queue, *, now: datetime) -> Waits:
    waiting = queue.waiting(job, now=now)
    return Waits(job, waiting.position, why_it_waits(job, waiting, room=queue.room, now=now))


def why_it_waits(job: Job, waiting: Waiting, *, room: Room, now: datetime) -> str:
    """`Waiting.waiting_for`, as one says it to a person."""
    why = waiting.waiting_for
    if why == "retry" and job.not_before is not None:
        return f"is tried again in {span((job.not_before - now).total_seconds())}"
    if why == "turn":
        return f"{_ordinal(waiting.position)} in line"
    if room.admission.first is not None and why == room.admission.first.held:
        return HELD_WORDS[room.admission.first.held].format(by=visible(room.admission.first.by))
    if why == "memory" and room.short_of:
        return "the host's memory is nearly used up"
    needs: Mapping[str, str] = {
        "memory": f"needs {size(job.memory_mb)} of memory, {size(max(0, room.memory_mb))} free",
        "cpus": f"needs {_plain(job.cpus)} CPUs, {_plain(max(0.0, room.cpus))} free",
        "gpus": f"needs {job.gpus} GPUs, {room.gpus} free",
    }
    return needs.get(why) or SHORT_OF.get(why, f"the host is short of {why}")


def state_words(job: Job) -> str:
    """What a job is doing, in a word or two."""
    if job.status != Status.RUNNING:
        return str(job.get_status_display())
    words = {
        Phase.BUILDING_ENVIRONMENT: "Building",
        Phase.STARTING: "Starting",
        Phase.REGISTERING: "Registering",
        Phase.STOPPING: "Stopping",
    }
    return words.get(Phase(job.phase), "Training")


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{number}{ending or 'th'}"


def _plain(number: float) -> str:
    return f"{number:g}"
