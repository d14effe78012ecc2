"""Who is next: by priority, then by turns of the users, then by age, as far as there is room."""

import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Min, Q, QuerySet, Sum, Value
from django.utils import timezone
from django_q.tasks import async_task

from registry import holds
from registry.feature_store.services import rows_with_worker
from registry.holds import OPEN, Admission
from sandbox import holders
from training.models import Attempt, EngineCapacity, Job, QueueTurn, Resolution
from training.services import gpus, rows
from training.states import Phase, Status

LAUNCH_TASK = "training.tasks.launch"
LOCAL_ENGINE = "local"
# How long a worker may take to resolve requirements before another one is asked.
RESOLVE_PATIENCE_SECONDS = 120
# What tenths leave of each other in binary is no part of a processor.
CPU_DIGITS = 6
# A measurement that is older says nothing about now.
MEASUREMENT_FRESH_SECONDS = 60
# What is taken first is less: the priority, turned round, and when the job was accepted.
Rank = tuple[int, datetime]


@dataclass(frozen=True)
class Room:
    """What is left for jobs on an engine; `short_of` names what stops every new one.

    Somebody's word (`admission`) stops them too, however much is left.
    """

    memory_mb: int
    cpus: float
    jobs: int
    running: int = 0
    short_of: str = ""
    gpus: int = 0
    admission: Admission = OPEN

    def fits(self, job: Job) -> bool:
        """One job alone always fits, but for GPUs: on a small host it would wait for ever."""
        return not self.why_not(job)

    def why_not(self, job: Job) -> str:
        """What the job waits for: `paused` or `draining`, what the platform is short of, `memory`,
        `cpus`, `gpus` or `slots`."""
        if self.admission.first is not None:
            return self.admission.first.held
        if self.short_of:
            return self.short_of
        if job.gpus > self.gpus:
            return "gpus"
        if self.running == 0:
            return ""
        if self.jobs <= 0:
            return "slots"
        if job.memory_mb > self.memory_mb:
            return "memory"
        return "cpus" if job.cpus > self.cpus else ""


@dataclass(frozen=True)
class Waiting:
    """A place in the queue, 1 for the first, and what the job waits for: what `Room.why_not` says,
    `retry` (it is tried again later), `turn`, `builders` (all are busy), or nothing at all.
    """

    position: int
    waiting_for: str


def room_left(engine: str = LOCAL_ENGINE) -> Room:
    """What the engine has, less what its open attempts were promised."""
    return room_of(measured_now(engine), engine=engine)


def measured_now(engine: str = LOCAL_ENGINE) -> EngineCapacity | None:
    """What its supervisor measured last, with what somebody said of its admission, and how many
    GPUs are free; one query."""
    found = gpus.with_free_devices(EngineCapacity.objects.filter(engine=engine), engine)
    measured: EngineCapacity | None = holds.with_admission(found, engine).first()
    return measured


def room_of(measured: EngineCapacity | None, *, engine: str = LOCAL_ENGINE) -> Room:
    """The room by what `measured_now` found; an old measurement says nothing about now."""
    if measured is None:
        admission = holds.admission(engine)
        return Room(memory_mb=0, cpus=0, jobs=0, short_of="engine", admission=admission)
    admission = holds.admission_of(measured)
    oldest = timezone.now() - timedelta(seconds=MEASUREMENT_FRESH_SECONDS)
    if measured.measured_at < oldest:
        return Room(memory_mb=0, cpus=0, jobs=0, short_of="engine", admission=admission)
    open_jobs = Job.objects.filter(attempts__finished_at=None, attempts__engine=engine)
    used = open_jobs.aggregate(memory=Sum("memory_mb"), cpus=Sum("cpus"), jobs=Count("pk"))
    jobs = settings.MAX_CONCURRENT_JOBS or measured.memory_mb
    return Room(
        memory_mb=measured.memory_mb - settings.RESERVED_MEMORY_MB - (used["memory"] or 0),
        cpus=round(measured.cpus - (used["cpus"] or 0.0), CPU_DIGITS),
        jobs=jobs - used["jobs"],
        running=used["jobs"],
        short_of=measured.short_of,
        gpus=gpus.free_beside(measured),
        admission=admission,
    )


def one_at_a_time(engine: str = LOCAL_ENGINE) -> None:
    """In a transaction: whoever else counts jobs before adding one waits until it is over.

    What counts is counted by nobody else then, as it is on SQLite, which has one writer anyway.
    """
    EngineCapacity.objects.select_for_update().filter(engine=engine).values_list("pk").first()


def note_short_of(what: str, engine: str = LOCAL_ENGINE) -> None:
    """Nothing more is claimed until the next measurement: each job would lose an attempt."""
    EngineCapacity.objects.filter(engine=engine).update(short_of=what)


def next_in_line() -> Job | None:
    """The job that is to be taken next, whether there is room for it or not.

    What waits for a GPU holds up nobody who needs none.
    """
    now = timezone.now()
    due = Job.objects.filter(status=Status.QUEUED).filter(
        Q(not_before=None) | Q(not_before__lte=now)
    )
    first = _first_of(due)
    if first is None or first.gpus == 0 or first.gpus <= gpus.free_devices(LOCAL_ENGINE):
        return first
    return _first_of(due.filter(gpus=0)) or first


def _first_of(due: QuerySet[Job]) -> Job | None:
    heads = list(
        due.values("priority", "owner").annotate(first=Min("created_at")).order_by("-priority")
    )
    if not heads:
        return None
    first_class = [head for head in heads if head["priority"] == heads[0]["priority"]]
    owner = _whose_turn({head["owner"]: head["first"].timestamp() for head in first_class})
    waiting = due.filter(owner=owner, priority=heads[0]["priority"]).order_by("created_at", "id")
    return waiting.first()


def claimable() -> Job | None:
    """The next job, if it could be launched now."""
    job = next_in_line()
    if job is None or not room_left().fits(job) or builders_busy():
        return None
    return job


def claim_next() -> Attempt | None:
    """Takes the next job, if there is room for it; None otherwise."""
    with transaction.atomic():
        one_at_a_time()
        job = claimable()
        if job is None:
            return None
        now = timezone.now()
        taken = Job.objects.select_for_update(skip_locked=True).filter(
            pk=job.pk, status=Status.QUEUED
        )
        job = taken.first()
        if job is None:
            return None
        rows.move(job, Status.RUNNING)
        job.phase = Phase.BUILDING_ENVIRONMENT
        job.started_at = job.started_at or now
        job.not_before = None
        job.save(update_fields=["status", "phase", "started_at", "not_before", "revision"])
        attempt = Attempt.objects.create(
            job=job,
            number=job.attempts.count() + 1,
            engine=LOCAL_ENGINE,
            lease_owner=holders.me(),
            lease_expires_at=now + timedelta(seconds=rows.LEASE_SECONDS),
            created_at=now,
        )
        gpus.take(attempt)
        QueueTurn.objects.update_or_create(owner=job.owner, defaults={"taken_at": now})
        rows.record(job, "claimed", f"by {holders.me()}", actor=rows.WORKER, attempt=attempt)
    return attempt


def ask_to_launch() -> None:
    """Wakes a worker, which launches what is next when it comes to it."""
    async_task(LAUNCH_TASK, save=False)


def position_in_queue(job: Job) -> int:
    """How many jobs were accepted before this one and are not taken yet, of its priority or above.

    An estimate: users take turns, so that a job may overtake older ones of somebody else.
    """
    waiting = Job.objects.filter(status=Status.QUEUED)
    ahead = Q(priority__gt=job.priority) | Q(priority=job.priority, created_at__lt=job.created_at)
    return waiting.filter(ahead).count()


def waiting_of(jobs: Sequence[Job], *, room: Room | None = None) -> dict[uuid.UUID, Waiting]:
    """Where those of the jobs that are queued stand, and why they are not taken.

    `room` is what is left, where that is known already.
    """
    queued = [job for job in jobs if job.status == Status.QUEUED]
    if not queued:
        return {}
    ahead = _jobs_ahead(queued)
    room = room or room_left()
    busy, now = builders_busy(), timezone.now()
    return {
        job.pk: Waiting(
            position=ahead[job.pk] + 1,
            waiting_for=_why_waiting(job, room=room, first=ahead[job.pk] == 0, busy=busy, now=now),
        )
        for job in queued
    }


@dataclass(frozen=True)
class Queue:
    """All that waits and what there is room for, read once for everything that is told of it."""

    room: Room
    builders_busy: bool
    ranks: Sequence[Rank]

    @property
    def oldest(self) -> datetime | None:
        return min((at for _, at in self.ranks), default=None)

    def waiting(self, job: Job, *, now: datetime) -> Waiting:
        """Where a job that is queued stands, and why it is not taken."""
        ahead = bisect_left(self.ranks, (-job.priority, job.created_at))
        why = _why_waiting(job, room=self.room, first=ahead == 0, busy=self.builders_busy, now=now)
        return Waiting(position=ahead + 1, waiting_for=why)


def look_at_queue(room: Room) -> Queue:
    """The queue as it is now; three queries, however long it is."""
    return Queue(room=room, builders_busy=builders_busy(), ranks=_ranks())


def _why_waiting(job: Job, *, room: Room, first: bool, busy: bool, now: datetime) -> str:
    if job.not_before is not None and job.not_before > now:
        return "retry"
    short = room.why_not(job)
    if short:
        return short
    if not first:
        return "turn"
    return "builders" if busy else ""


def _jobs_ahead(queued: Sequence[Job]) -> dict[uuid.UUID, int]:
    """`position_in_queue` of each; the queue is read once, however many are asked for."""
    if len(queued) == 1:
        return {queued[0].pk: position_in_queue(queued[0])}
    ranks = _ranks()
    return {job.pk: bisect_left(ranks, (-job.priority, job.created_at)) for job in queued}


def _ranks() -> list[Rank]:
    waiting = Job.objects.filter(status=Status.QUEUED).order_by()
    return sorted((-priority, at) for priority, at in waiting.values_list("priority", "created_at"))


def _whose_turn(first_waiting: dict[str, float]) -> str:
    """The owner with the fewest jobs running, then the one who had no turn for longest."""
    if len(first_waiting) == 1:
        return next(iter(first_waiting))
    owners = list(first_waiting)
    running = dict(
        Job.objects.filter(status=Status.RUNNING, owner__in=owners)
        .values_list("owner")
        .annotate(Count("pk"))
    )
    turns = {
        turn.owner: turn.taken_at.timestamp() for turn in QueueTurn.objects.filter(owner__in=owners)
    }
    return min(
        owners,
        key=lambda owner: (running.get(owner, 0), turns.get(owner, 0.0), first_waiting[owner]),
    )


def builders_busy() -> bool:
    """What has ended must not wait for an installer: builds have their share of the workers.

    One of them is taken while features are materialised, unless it is the only one.
    """
    building = Job.objects.filter(status=Status.RUNNING, phase=Phase.BUILDING_ENVIRONMENT)
    since = timezone.now() - timedelta(seconds=RESOLVE_PATIENCE_SECONDS)
    resolving = Resolution.objects.filter(status=Resolution.Status.RESOLVING, queued_at__gte=since)
    one = {"one": Value(1)}
    others = rows_with_worker() if settings.LONG_TASKS > 1 else ()
    long: list[QuerySet[Any]] = [resolving, *others]
    held = building.order_by().values(**one).union(*(each.values(**one) for each in long), all=True)
    return held.count() >= settings.LONG_TASKS
