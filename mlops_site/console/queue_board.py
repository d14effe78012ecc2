"""What the page of queue and workers shows: who is at what, what waits and why, how full it is.

Read only, and as many queries for an empty queue as for a full one. What processes tell of
themselves (`mlops_site.reports`) is beside what rows say they hold; nothing is decided by either.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import CharField, Count, DateTimeField, F, Value, Window
from django.db.models.functions import Cast, Concat
from django.utils.dateparse import parse_datetime

from inference.batch.states import Status as BatchStatus
from inference.models import BatchPrediction, ModelServer
from mlops_site.admission import Left, NowHeld
from mlops_site.console.parts import ATTENTION, UNWELL, WELL
from mlops_site.models import BEAT_FRESH_SECONDS, QUEUE, SUPERVISOR, WORKER, Heartbeat, Report
from registry.console import size
from training.board import COLUMNS, why_it_waits
from training.models import (
    Attempt,
    BuiltEnvironment,
    EngineCapacity,
    Job,
    Resolution,
    WaitingContainer,
)
from training.services import rows
from training.services.claim import (
    RESOLVE_PATIENCE_SECONDS,
    Queue,
    Room,
    builders_busy,
    measured_now,
    room_of,
)
from training.states import Status

WAITING_SHOWN, RUNNING_SHOWN, CONTAINERS_SHOWN, IN_HAND_SHOWN = 50, 50, 20, 50
# A process that told nothing for so long is not at what it told.
REPORT_FRESH = timedelta(seconds=BEAT_FRESH_SECONDS)
TASKS: Mapping[str, str] = {
    "training.tasks.launch": "starts the next job",
    "training.tasks.finish": "brings a job to its end",
    "training.tasks.fill_pool": "makes a waiting container",
    "training.tasks.resolve": "resolves requirements",
    "training.tasks.keep_network": "keeps the firewall's rules",
    "training.tasks.prove_network": "tries the firewall from inside",
    "training.tasks.change_environment": "builds or deletes an environment",
    "inference.tasks.start_server": "starts a model server",
    "inference.tasks.stop_server": "stops a model server",
    "inference.tasks.keep_compact_form": "keeps the compact form of a model",
    "inference.tasks.start_batch": "starts a batch prediction",
    "inference.tasks.finish_batch": "collects a batch prediction",
    "registry.feature_store.tasks.describe": "reads the feature store",
    "registry.feature_store.tasks.materialize": "materialises features",
    "mlops_site.tasks.worker_beat": "says that the worker works",
    "mlops_site.tasks.environments": "keeps the environments in order",
    "mlops_site.tasks.retention": "clears away what is old",
}
SERVER, BATCH, BUILD, RESOLVED = "server", "batch", "build", "resolution"
IN_HAND = {
    SERVER: "model server",
    BATCH: "batch",
    BUILD: "build of environment",
    RESOLVED: "requirements",
}


@dataclass(frozen=True)
class InHand:
    """Work beside jobs that somebody is at. `until` is when the claim on it runs out."""

    kind: str
    key: str
    name: str
    holder: str
    until: datetime | None

    @property
    def words(self) -> str:
        return f"{IN_HAND[self.kind]} {self.name}".strip()


@dataclass(frozen=True)
class Process:
    """One process, or a part of one: `at` is what it does, `since` when it began that."""

    name: str
    where: str
    state: str
    at: str
    since: datetime | None = None
    told_at: datetime | None = None
    jobs: Sequence[Attempt] = ()
    holds: Sequence[InHand] = ()
    is_part: bool = False


@dataclass(frozen=True)
class Place:
    """How much of something is given away; `whole` is None where nothing bounds it."""

    name: str
    told: str
    percent: int | None


@dataclass(frozen=True)
class Waits:
    job: Any
    position: int
    why: str


@dataclass(frozen=True)
class Task:
    """One task of the queue, or one that failed."""

    words: str
    about: str
    state: str
    told: str
    at: datetime | None
    again_at: datetime | None = None


@dataclass(frozen=True)
class Tasks:
    """`waiting` and `taken` are None where nobody knows."""

    kind: str
    waiting: int | None
    taken: int | None
    shown: Sequence[Task]
    failed: Sequence[Task]
    told_at: datetime | None
    is_away: bool = False


@dataclass(frozen=True)
class QueueBoard:
    held: NowHeld
    processes: Sequence[Process]
    places: Sequence[Place]
    running: Sequence[Attempt]
    running_count: int
    in_hand: Sequence[InHand]
    waiting: Sequence[Waits]
    waiting_count: int
    tasks: Tasks
    containers: Sequence[WaitingContainer]


def queue_board(*, now: datetime) -> QueueBoard:
    """Ten queries."""
    measured = measured_now()
    room = room_of(measured)
    attempts = list(_open_attempts()[:RUNNING_SHOWN])
    in_hand = _in_hand(now)
    reports = list(Report.objects.filter(told_at__gte=now - timedelta(hours=1)).order_by("name"))
    waiting = _waiting()
    count = waiting[0].total if waiting else 0
    kinds = [one.kind for one in in_hand]
    return QueueBoard(
        held=NowHeld(
            admission=room.admission,
            left=Left(
                jobs=max(room.running, len(attempts)),
                batches=kinds.count(BATCH),
                builds=kinds.count(BUILD) + kinds.count(RESOLVED),
            ),
            waiting=count,
        ),
        processes=_processes(reports, attempts, in_hand, now=now),
        places=list(_places(measured, room)),
        running=attempts,
        running_count=max(room.running, len(attempts)),
        in_hand=in_hand,
        waiting=_why_each(waiting, room, now=now),
        waiting_count=count,
        tasks=_tasks(next((one for one in reports if one.name == "queue"), None)),
        containers=list(_containers()),
    )


# -- rows -----------------------------------------------------------------------------------------
def _open_attempts() -> Any:
    attempts = Attempt.objects.filter(finished_at=None).select_related("job").order_by("id")
    return attempts.defer("readback", "job__script", "job__environment_lock", "job__environment")


def _containers() -> Any:
    rows_there = WaitingContainer.objects.select_related("attempt").order_by("id")
    return rows_there[:CONTAINERS_SHOWN]


def _waiting() -> list[Any]:
    """In the order of the queue; `total` is how many wait in all."""
    waiting = Job.objects.only(*COLUMNS).filter(status=Status.QUEUED)
    counted = waiting.annotate(total=Window(Count("pk")))
    return list(counted.order_by("-priority", "created_at", "id")[:WAITING_SHOWN])


def _why_each(waiting: Sequence[Any], room: Room, *, now: datetime) -> list[Waits]:
    if not waiting:
        return []
    ranks = sorted((-job.priority, job.created_at) for job in waiting)
    queue = Queue(room=room, builders_busy=builders_busy(), ranks=ranks)
    return [
        Waits(job, number, why_it_waits(job, queue.waiting(job, now=now), room=room, now=now))
        for number, job in enumerate(waiting, start=1)
    ]


def _in_hand(now: datetime) -> list[InHand]:
    """Whatever beside jobs has an end and is worked on; one query."""
    lately = now - timedelta(seconds=RESOLVE_PATIENCE_SECONDS)
    versions = Concat(F("model_name"), Value(" version "), F("version"), output_field=CharField())
    none = Value("", output_field=CharField())
    never = Cast(Value(None), DateTimeField())
    servers = _as_in_hand(
        ModelServer.objects.filter(claim_expires_at__gte=now),
        *(SERVER, versions, F("claim_owner"), F("claim_expires_at")),
    )
    batches = _as_in_hand(
        BatchPrediction.objects.filter(status=BatchStatus.RUNNING),
        *(BATCH, versions, F("claim_owner"), F("claim_expires_at")),
    )
    building = BuiltEnvironment.objects.filter(state=BuiltEnvironment.State.BUILDING)
    builds = _as_in_hand(building, BUILD, F("key"), none, never)
    open_sets = Resolution.objects.filter(status=Resolution.Status.RESOLVING)
    resolving = _as_in_hand(
        open_sets.filter(queued_at__gte=lately), RESOLVED, none, none, F("queued_at")
    )
    found = servers.union(batches, builds, resolving, all=True)
    return [InHand(*row) for row in found[:IN_HAND_SHOWN]]


def _as_in_hand(found: Any, kind: str, name: Any, holder: Any, until: Any) -> Any:
    told = {
        "hand_kind": Value(kind, output_field=CharField()),
        "hand_key": Cast("pk", CharField()),
        "hand_name": name,
        "hand_holder": holder,
        "hand_until": until,
    }
    return found.order_by().annotate(**told).values_list(*told)


# -- processes ------------------------------------------------------------------------------------
def _processes(
    reports: Sequence[Report],
    attempts: Sequence[Attempt],
    in_hand: Sequence[InHand],
    *,
    now: datetime,
) -> list[Process]:
    names = (WORKER, SUPERVISOR, QUEUE)
    beats = {beat.name: beat for beat in Heartbeat.objects.filter(name__in=names)}
    known: set[str] = set()
    workers: list[Process] = []
    for report in _of_kind(reports, "worker"):
        parts = _parts_of(report, attempts, in_hand, now=now)
        known.update(part.where for part in parts)
        workers += [_whole(report, parts, now=now), *parts]
    return [
        _by_beat("Worker", "", beats.get(WORKER), "takes tasks"),
        *workers,
        *_unseen(attempts, in_hand, known),
        _supervisor(reports, beats.get(SUPERVISOR), attempts),
        _by_beat("Queue", "", beats.get(QUEUE), "reached by the supervisor"),
    ]


def _by_beat(name: str, where: str, beat: Heartbeat | None, well: str) -> Process:
    if beat is None:
        return Process(name, where, UNWELL, "has not shown itself yet")
    state = WELL if beat.age_seconds <= BEAT_FRESH_SECONDS else UNWELL
    at = well if state == WELL else "was not heard of lately"
    return Process(name, where, state, at, told_at=beat.beaten_at)


def _supervisor(
    reports: Sequence[Report], beat: Heartbeat | None, attempts: Sequence[Attempt]
) -> Process:
    held = [attempt for attempt in attempts if attempt.lease_owner == rows.SUPERVISOR]
    where = ", ".join(_holder(report) for report in _of_kind(reports, "supervisor"))
    shown = _by_beat("Supervisor", where, beat, "observes what runs")
    return Process(shown.name, where, shown.state, shown.at, told_at=shown.told_at, jobs=held)


def _whole(report: Report, parts: Sequence[Process], *, now: datetime) -> Process:
    """The cluster that a watcher tells of."""
    busy = sum(part.state == "running" for part in parts)
    if now - report.told_at > REPORT_FRESH:
        state, at = UNWELL, "told nothing lately: it died, or the database did not answer"
    elif not report.told.get("whole"):
        state, at = ATTENTION, "is not whole yet: it starts, or is about to be started again"
    else:
        state, at = WELL, f"{busy} of {len(parts)} processes are at a task"
    return Process("Cluster", _holder(report), state, at, told_at=report.told_at)


def _parts_of(
    report: Report, attempts: Sequence[Attempt], in_hand: Sequence[InHand], *, now: datetime
) -> list[Process]:
    """Its worker processes, with the leases that each holds."""
    host = _holder(report).rpartition(":")[0]
    fresh = now - report.told_at <= REPORT_FRESH
    parts = []
    for told in report.told.get("processes", ()) if fresh else ():
        holder = f"{host}:{told['pid']}"
        parts.append(
            Process(
                name=f"Process {told['pid']}",
                where=holder,
                state="running" if told["task"] else "queued",
                at=task_words(told["task"]) if told["task"] else "idle",
                since=parse_datetime(told["since"]) if told["task"] else None,
                jobs=[each for each in attempts if each.lease_owner == holder],
                holds=[each for each in in_hand if each.holder == holder],
                is_part=True,
            )
        )
    return parts


def _unseen(
    attempts: Sequence[Attempt], in_hand: Sequence[InHand], known: set[str]
) -> list[Process]:
    """Who holds something and is none of the processes that told of themselves."""
    holders = dict.fromkeys(
        [
            *(each.lease_owner for each in attempts if each.lease_owner != rows.SUPERVISOR),
            *(each.holder for each in in_hand if each.holder),
        ]
    )
    return [
        Process(
            name="Another process",
            where=holder,
            state=ATTENTION,
            at="holds work and told nothing: what it holds is taken over when its lease runs out",
            jobs=[each for each in attempts if each.lease_owner == holder],
            holds=[each for each in in_hand if each.holder == holder],
        )
        for holder in holders
        if holder not in known
    ]


def _of_kind(reports: Iterable[Report], kind: str) -> list[Report]:
    return [report for report in reports if report.name.startswith(f"{kind} ")]


def _holder(report: Report) -> str:
    return report.name.partition(" ")[2]


# -- places ---------------------------------------------------------------------------------------
def _places(measured: EngineCapacity | None, room: Room) -> Iterable[Place]:
    """What jobs were promised of what the engine has for them."""
    if measured is None or room.short_of == "engine":
        yield Place("Engine", "was not measured lately", None)
        return
    memory = max(0, measured.memory_mb - settings.RESERVED_MEMORY_MB)
    promised = memory - room.memory_mb
    yield _place("Memory promised", size(promised), size(memory), promised, memory)
    cpus = measured.cpus - room.cpus
    yield _place("CPUs promised", f"{cpus:g}", f"{measured.cpus:g}", cpus, measured.cpus)
    most = settings.MAX_CONCURRENT_JOBS
    if most:
        yield _place("Slots", str(room.running), str(most), room.running, most)
    else:
        yield Place("Slots", f"{room.running} taken, as many as fit", None)
    free, whole = measured.memory_free_mb, measured.memory_mb
    yield _place("Memory in use", size(whole - free), size(whole), whole - free, whole)
    yield Place("Disk", f"{size(measured.disk_free_mb)} free", None)
    if room.gpus:
        yield Place("GPUs", f"{room.gpus} free", None)


def _place(name: str, used: str, whole: str, part: float, of: float) -> Place:
    percent = round(100 * part / of) if of else 100
    return Place(name, f"{used} of {whole}", min(100, max(0, percent)))


# -- tasks ----------------------------------------------------------------------------------------
def task_words(function: str) -> str:
    """What a task does, for somebody who does not know the code."""
    return TASKS.get(function, function)


def _tasks(report: Report | None) -> Tasks:
    if report is None:
        return Tasks("", None, None, (), (), None)
    told = report.told
    return Tasks(
        kind=str(told.get("kind", "")),
        waiting=told.get("waiting"),
        taken=told.get("taken"),
        shown=[_task(one) for one in told.get("tasks", ())],
        failed=[_failed(one) for one in told.get("failed", ())],
        told_at=report.told_at,
        is_away=bool(told.get("away")),
    )


def _task(told: Mapping[str, Any]) -> Task:
    state, words = ("running", "in hand") if told.get("taken_at") else ("queued", "waits")
    if told.get("again"):
        state, words = ATTENTION, f"{words}, delivered again"
    moment = told.get("taken_at") or told.get("queued_at")
    return Task(
        words=task_words(str(told["func"])),
        about=str(told.get("about", "")),
        state=state,
        told=words,
        at=parse_datetime(moment) if moment else None,
        again_at=parse_datetime(told["again_at"]) if told.get("again_at") else None,
    )


def _failed(told: Mapping[str, Any]) -> Task:
    tries = int(told.get("tries") or 1)
    again = f", given out {tries} times" if tries > 1 else ""
    return Task(
        words=task_words(str(told["func"])),
        about="",
        state="failed",
        told=f"failed{again}",
        at=parse_datetime(told["at"]) if told.get("at") else None,
    )
