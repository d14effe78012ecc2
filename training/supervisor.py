"""Observes job containers: their output, their end, their deadline, and what nobody holds.

It keeps no state that matters: killed at any moment and started again, it finds every container
from its rows, takes up each log where the stored part ends, and asks for what is due. It never
decides how a job ended; it only asks a worker to.
"""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from registry import holds
from registry.mlflow_client import model_registry
from sandbox.engine import Engine, EngineError, EngineUnavailable, FoundContainer
from training.followers import EngineEvents, LogFollower, UsageSampler
from training.models import Attempt, EngineCapacity
from training.services import (
    claim,
    environments,
    finish,
    launch,
    network,
    observe,
    resolve,
    rows,
    usage,
    waiting,
)
from training.states import Intent

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
ASK_AGAIN_SECONDS = 20.0
LAUNCH_AGAIN_SECONDS = 5.0
MLFLOW_SECONDS = 1.0
POOL_SECONDS = 1.0
MIB = 1024 * 1024


class JobSupervisor:
    """One look at every job container at each `tick`; a look for leftovers at each `reconcile`.

    `wake` is set when a container's output ends, so that its end is not noticed a tick late.
    `may_act` is called before anything is done to an attempt, and raises when another supervisor
    may have taken over meanwhile.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        wake: threading.Event | None = None,
        may_act: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._may_act = may_act
        self._wake = wake or threading.Event()
        self._followers: dict[int, LogFollower] = {}
        self._asked_at: dict[int, float] = {}
        self._renewed_at = 0.0
        self._pool_looked_at = 0.0
        self._launch_asked: tuple[uuid.UUID | None, float] = (None, 0.0)
        self._usage = UsageSampler(engine)
        self._curves = usage.UsageCurves()
        labels = {"mlops.installation": settings.INSTALLATION_ID}
        self._events = EngineEvents(engine, labels=labels, wake=self._wake)

    @property
    def reconcile_due(self) -> bool:
        """Whether the engine told of an end since this was last asked."""
        due = self._events.due.is_set()
        self._events.due.clear()
        return due

    def tick(self) -> None:
        """Follow what runs, end what is over, renew what is alive, launch what waits."""
        held = list(self._held())
        self._forget(keep={attempt.pk for attempt in held})
        for attempt in held:
            self._with_care(self._observe, attempt)
        self._note_usage(held)
        self._renew(held)
        self._launch_what_waits()
        resolve.dispatch()
        self._fill_pool()
        environments.dispatch()

    def ask_again(self) -> None:
        """The queue has lost its tasks: each look asks for what is due, as if it never had."""
        self._asked_at.clear()
        self._launch_asked = (None, 0.0)
        resolve.ask_again()
        environments.ask_again()

    def reconcile(self) -> None:
        """Finds orphans in both directions: rows without a holder, containers without a row.

        An engine that goes says so first here: its events break off. Nothing is launched then, or
        one outage would take a second attempt of every job that it ended. Raises EngineUnavailable.
        """
        try:
            self._reconcile()
        except EngineUnavailable:
            claim.note_short_of("engine")
            raise

    def _reconcile(self) -> None:
        for attempt in observe.unattended():
            self._with_care(self._recover, attempt)
        labels = {"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": "job"}
        found = self._engine.find(labels)
        self._find_silent_ends(found)
        self._remove_leftovers(found)
        waiting.clear_away(self._engine)
        self._remove_folders()
        finish.delete_users_left_behind()

    def measure(self) -> None:
        """What the host has left decides how many jobs it takes; none while the engine is away.

        Raises EngineUnavailable.
        """
        try:
            capacity = self._engine.capacity()
        except EngineUnavailable:
            claim.note_short_of("engine")
            raise
        observe.note_gpus(settings.GPU_DEVICES or capacity.gpus)
        if waiting.is_short(_free_memory_mb()) or holds.is_draining(claim.LOCAL_ENGINE):
            waiting.give_up_all(self._engine)
        # What waits for jobs, a job may have.
        free_memory = _free_memory_mb() + waiting.memory_mb()
        disk = shutil.disk_usage(settings.MLOPS_HOME).free // MIB
        observe.note_room(
            EngineCapacity(
                engine=claim.LOCAL_ENGINE,
                memory_mb=capacity.memory_mb,
                memory_free_mb=free_memory,
                cpus=capacity.cpus,
                disk_free_mb=disk,
                short_of=_short_of(disk_mb=disk, memory_mb=free_memory),
                measured_at=timezone.now(),
            )
        )

    # -- running containers ------------------------------------------------------------------------
    def _held(self) -> QuerySet[Attempt]:
        held = Attempt.objects.filter(
            finished_at=None, lease_owner=rows.SUPERVISOR, container_started_at__isnull=False
        )
        return held.select_related("job").defer("job__script", "job__environment_lock")

    def _forget(self, *, keep: set[int]) -> None:
        for attempt_id in set(self._followers) - keep:
            del self._followers[attempt_id]
        # Not with the followers: a worker that gives an attempt back is not asked again at once.
        oldest = time.monotonic() - ASK_AGAIN_SECONDS
        self._asked_at = {pk: at for pk, at in self._asked_at.items() if at > oldest}

    def _with_care(self, look: Callable[[Attempt], None], attempt: Attempt) -> None:
        """An attempt that is somebody else's by now, or an error about it, stops no other one."""
        self._may_act()
        try:
            look(attempt)
        except rows.LeaseLost:
            return
        except EngineError:
            log.exception("job.engine_failed", extra={"attempt": attempt.pk})

    def _observe(self, attempt: Attempt) -> None:
        follower = self._followers.get(attempt.pk)
        if follower is None:
            follower = LogFollower(engine=self._engine, attempt=attempt, wake=self._wake)
            self._followers[attempt.pk] = follower
        output_ended = follower.ended
        follower.store(attempt)
        if output_ended:
            self._look_at_end(attempt)
        else:
            self._enforce(attempt, printed=follower.printed)

    def _look_at_end(self, attempt: Attempt) -> None:
        """The output is over: so is the container, unless the engine broke the stream off."""
        state = self._engine.state(attempt.container_id)
        if state is not None and state.running:
            del self._followers[attempt.pk]
            return
        self._ask_to_finish(attempt)

    def _ask_to_finish(self, attempt: Attempt) -> None:
        """Again after a while, since the queue may lose a task; a second one does nothing."""
        now = time.monotonic()
        if now - self._asked_at.get(attempt.pk, -ASK_AGAIN_SECONDS) < ASK_AGAIN_SECONDS:
            return
        self._asked_at[attempt.pk] = now
        finish.ask_to_finish(attempt.pk)

    def _enforce(self, attempt: Attempt, *, printed: int) -> None:
        """Decides what has to end, asks it to, and kills it when the grace is over."""
        if not attempt.intent:
            intent = _intent(attempt, printed=printed)
            if intent is None:
                return
            observe.decide(attempt, intent)
            if intent != Intent.DEADLINE:
                self._engine.terminate(attempt.container_id)
                return
        if attempt.intent == Intent.DEADLINE or _grace_is_over(attempt):
            self._engine.kill(attempt.container_id)

    def _note_usage(self, held: list[Attempt]) -> None:
        self._usage.watch({attempt.pk: attempt.container_id for attempt in held})
        seen = self._usage.take()
        self._curves.keep_only({attempt.pk for attempt in held})
        for attempt in held:
            used = seen.get(attempt.pk)
            if used is not None:
                memory, cpu = used.memory_bytes, used.cpu_seconds
                observe.note_usage(attempt, memory_bytes=memory, cpu_seconds=cpu)
                self._curves.note(attempt, memory_bytes=memory, cpu_seconds=cpu)

    def _renew(self, held: list[Attempt]) -> None:
        if time.monotonic() - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = time.monotonic()
        observe.renew_leases([attempt.pk for attempt in held])

    def _launch_what_waits(self) -> None:
        """Once for each job that comes first in line, and again when nothing came of it."""
        job = claim.claimable()
        first = job.pk if job else None
        asked_for, asked_at = self._launch_asked
        stale = time.monotonic() - asked_at >= LAUNCH_AGAIN_SECONDS
        if first is None or (first == asked_for and not stale):
            return
        self._launch_asked = (first, time.monotonic())
        claim.ask_to_launch()

    def _fill_pool(self) -> None:
        """Not more than one look a second, and an ask for each that is missing."""
        if time.monotonic() - self._pool_looked_at < POOL_SECONDS:
            return
        self._pool_looked_at = time.monotonic()
        key = waiting.missing()
        if key is not None:
            waiting.ask_to_fill(key)

    # -- leftovers ---------------------------------------------------------------------------------
    def _recover(self, attempt: Attempt) -> None:
        """Whoever held this attempt is gone. What its container says decides how to go on."""
        state = self._engine.state(attempt.container_id) if attempt.container_id else None
        observe.take_over(attempt)
        if attempt.container_started_at is not None:
            return  # the tick observes it, or sees that its container is gone
        began = launch.script_began(attempt, state)
        if began is None:
            observe.end_unstarted(attempt)
        else:
            launch.hand_over(attempt, started_at=began)

    def _find_silent_ends(self, found: Sequence[FoundContainer]) -> None:
        """Only of what does not run is the engine asked one by one; a waiting container that a job
        was given is listed as another kind."""
        running = {container.id for container in found if container.running}
        for attempt in self._held():
            if attempt.container_id not in running:
                self._with_care(self._find_silent_end, attempt)

    def _find_silent_end(self, attempt: Attempt) -> None:
        """A container that was removed by somebody, or whose stream never ended."""
        state = self._engine.state(attempt.container_id)
        if state is None or not state.running:
            self._ask_to_finish(attempt)

    def _remove_leftovers(self, found: Sequence[FoundContainer]) -> None:
        """Containers that nothing will ever finish: their attempt is over or unknown."""
        alive = _open_attempts(_attempt_numbers(found))
        for container in found:
            if container.labels.get("mlops.attempt", "") not in alive:
                self._remove(container.id)

    def _remove(self, container_id: str) -> None:
        """One that cannot be removed now keeps nothing else from being cleaned up."""
        try:
            self._engine.remove(container_id)
        except EngineError:
            log.exception("engine.not_removed", extra={"container": container_id})

    def _remove_folders(self) -> None:
        """Script folders of attempts that are over; a worker was killed before it could."""
        folders = list(Path(settings.JOBS_DIR).glob("attempt-*"))
        numbers = {folder.name.removeprefix("attempt-") for folder in folders}
        alive = _open_attempts(numbers)
        for folder in folders:
            if folder.name.removeprefix("attempt-") not in alive:
                shutil.rmtree(folder, ignore_errors=True)


def _intent(attempt: Attempt, *, printed: int) -> Intent | None:
    """What has to be done to a running attempt, if anything."""
    if attempt.job.cancel_requested_at is not None:
        return Intent.CANCEL
    if printed > settings.JOB_LOG_HARD_BYTES:
        return Intent.LOG_QUOTA
    return Intent.DEADLINE if _is_overdue(attempt) else None


def _is_overdue(attempt: Attempt) -> bool:
    slack = timedelta(seconds=settings.JOB_GRACE_SECONDS + observe.DEADLINE_SLACK_SECONDS)
    return attempt.deadline_at is not None and timezone.now() > attempt.deadline_at + slack


def _grace_is_over(attempt: Attempt) -> bool:
    slack = timedelta(seconds=settings.JOB_GRACE_SECONDS + observe.DEADLINE_SLACK_SECONDS)
    return attempt.intent_at is not None and timezone.now() > attempt.intent_at + slack


def _attempt_numbers(found: Iterable[FoundContainer]) -> set[str]:
    return {container.labels.get("mlops.attempt", "") for container in found}


def _open_attempts(numbers: set[str]) -> set[str]:
    wanted = [int(number) for number in numbers if number.isdigit()]
    alive = Attempt.objects.filter(pk__in=wanted, finished_at=None)
    return {str(pk) for pk in alive.values_list("pk", flat=True)}


def _short_of(*, disk_mb: int, memory_mb: int) -> str:
    """What stops new jobs: less is free than the operator wants to keep; MLflow is away; or
    nobody knows that the firewall holds."""
    if disk_mb < settings.DISK_FREE_MB:
        return "disk"
    if memory_mb < settings.MEMORY_FREE_MB:
        return "memory"
    if not model_registry().available(timeout_seconds=MLFLOW_SECONDS):
        return "mlflow"
    return network.short_of()


def _free_memory_mb() -> int:
    """What the kernel could give now without swapping: `MemAvailable`."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("/proc/meminfo names no MemAvailable")
