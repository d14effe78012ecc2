"""Containers that wait for a job, their imports done: taken, made ahead, given up. Rows, as ever.

A row says to whom a container was given before anything of a job goes into it, so that whoever
finds it later knows; one that was given is never given again. Workers make them and hand jobs over;
the supervisor asks for them and clears away. No job ever needs one: where something is not as it
should be, the job gets a container of its own.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_q.tasks import async_task

from registry import holds
from registry.mlflow_client import RegistryRefused, RegistryUnavailable
from sandbox.container import SCRIPT_PATH, SandboxSpec
from sandbox.engine import Engine, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import Environment
from sandbox.order import Bounds, Order, hand_in
from training import containers, engine_room
from training.models import Attempt, EngineCapacity, Job, WaitingContainer
from training.services import claim, rows
from training.states import Phase, Status

log = logging.getLogger(__name__)

FILL_TASK = "training.tasks.fill_pool"
State = WaitingContainer.State
# So many for one environment at most, and only as long as it was used lately.
PER_ENVIRONMENT = 2
USED_LATELY = timedelta(hours=1)
AGE_MAX = timedelta(hours=6)
JOBS_LOOKED_AT = 50
# A worker that makes one needs a few seconds; then it is given up for dead.
STARTING_MAX = timedelta(minutes=2)
# What one holds, measured: 150 to 190 MB. Free memory for all purposes but this one.
MEMORY_MB = 192
ORDER_SECONDS = 10.0
READY_MARK = b"!ready"
CANNOT_HAND_OVER = (EngineError, EngineUnavailable, RegistryUnavailable, RegistryRefused, OSError)
Variables = Callable[[], dict[str, str]]


# -- a job takes one -----------------------------------------------------------------------------
def start_in_waiting(
    attempt: Attempt, *, environment: Environment, variables: Variables
) -> datetime | None:
    """When the script began, in a container that waited for it; None when none was fit.

    Raises LeaseLost, EngineUnavailable, EngineError, and what `variables` raises, which is asked
    last; then nothing of it is left.
    """
    waiting = _take(attempt, environment)
    if waiting is None:
        return None
    try:
        began = _hand_over(waiting, attempt, environment, variables)
    except (rows.LeaseLost, *CANNOT_HAND_OVER):
        _remove(waiting, engine_room.engine())
        raise
    if began is None:
        _remove(waiting, engine_room.engine())
    return began


def _take(attempt: Attempt, environment: Environment) -> WaitingContainer | None:
    """The oldest that is ready; its row names the attempt from here on."""
    if settings.WAITING_CONTAINERS == 0 or not containers.fits_waiting(attempt.job):
        return None
    ready = _of_environment(environment).filter(state=State.READY)
    for candidate in ready.order_by("created_at"):
        free = WaitingContainer.objects.filter(pk=candidate.pk, state=State.READY)
        if free.update(state=State.TAKEN, attempt=attempt):
            candidate.refresh_from_db()
            return candidate
    return None


def _hand_over(
    waiting: WaitingContainer,
    attempt: Attempt,
    environment: Environment,
    variables: Variables,
) -> datetime | None:
    engine = engine_room.engine()
    spec = _spec(waiting, environment)
    wanted = spec.with_limits(containers.limits_of(attempt.job))
    try:
        if wanted.limits != spec.limits:
            engine.change_limits(waiting.container_id, wanted)
        readback = engine.checked_readback(waiting.container_id, wanted)
    except (EngineError, SandboxMismatch):
        log.warning("waiting.refused", exc_info=True, extra={"attempt": attempt.pk})
        return None
    # Before the order: whoever finds the attempt without its worker knows where to look.
    rows.update_attempt(attempt, container_id=waiting.container_id, readback=readback)
    containers.put_script(attempt, containers.waiting_folder(waiting.pk))
    order = Order(variables(), bounds=_bounds(attempt.job))
    began = hand_in(engine, waiting.container_id, order, timeout_seconds=ORDER_SECONDS)
    if began is None:
        # It ended before it had the order: the script did not run.
        rows.update_attempt(attempt, container_id="", readback={})
    return began


def _bounds(job: Job) -> Bounds:
    return Bounds(
        path=f"{SCRIPT_PATH}/{job.script_name}",
        seconds=job.timeout_seconds,
        grace_seconds=settings.JOB_GRACE_SECONDS,
        log_bytes=settings.JOB_LOG_MAX_BYTES,
        log_hard_bytes=settings.JOB_LOG_HARD_BYTES,
    )


def forget(attempt: Attempt) -> None:
    """What an attempt that is over took: the container, its folder, the row."""
    for waiting in WaitingContainer.objects.filter(attempt=attempt):
        _remove(waiting, engine_room.engine())


# -- a worker makes one --------------------------------------------------------------------------
def fill(environment_key: str) -> None:
    """Makes one for this environment, unless there are enough by now."""
    environment = engine_room.environment(environment_key)
    waiting = _begin_to_make(environment) if environment is not None else None
    if environment is None or waiting is None:
        return
    ready = False
    try:
        ready = _make(waiting, environment)
    except (EngineError, EngineUnavailable, SandboxMismatch, OSError):
        log.warning("waiting.not_made", exc_info=True)
    if not ready:
        _remove(waiting, engine_room.engine())


def _begin_to_make(environment: Environment) -> WaitingContainer | None:
    image = engine_room.engine().image_id(environment.image or settings.RUNNER_IMAGE)
    shape = _shape(environment)
    with transaction.atomic():
        if environment.key != missing():
            return None
        return WaitingContainer.objects.create(
            engine=claim.LOCAL_ENGINE,
            environment_key=environment.key,
            shape=shape,
            image=image,
            created_at=timezone.now(),
        )


def _make(waiting: WaitingContainer, environment: Environment) -> bool:
    """Whether it is ready and still wanted."""
    engine = engine_room.engine()
    containers.make_waiting_folder(waiting.pk)
    container_id = engine.create(_spec(waiting, environment))
    mine = WaitingContainer.objects.filter(pk=waiting.pk, state=State.STARTING)
    waiting.container_id = container_id
    if not mine.update(container_id=container_id):
        return False
    engine.start(container_id)
    if not _becomes_ready(engine, container_id):
        return False
    usage = engine.usage(container_id)
    spent = usage.cpu_seconds if usage else 0.0
    return bool(mine.update(state=State.READY, cpu_seconds=spent))


def _becomes_ready(engine: Engine, container_id: str) -> bool:
    """Waits for its word; False when it ends without."""
    heard = b""
    for data in engine.follow_logs(container_id):
        heard += data
        if READY_MARK in heard:
            return True
    return False


# -- the supervisor asks for them, and clears away -----------------------------------------------
def ask_to_fill(environment_key: str) -> None:
    async_task(FILL_TASK, environment_key, save=False)


def missing() -> str | None:
    """The environment that is to get one now; None while a job is on its way, or there are enough.

    One at a time, and only with a builder's share of the workers free.
    """
    if settings.WAITING_CONTAINERS == 0:
        return None
    there = list(WaitingContainer.objects.exclude(state=State.TAKEN))
    if any(row.state == State.STARTING for row in there) or _somebody_is_busy():
        return None
    have = Counter(row.environment_key for row in there)
    for key, count in _wanted().items():
        if have[key] < count:
            return key
    return None


def give_up_all(engine: Engine) -> None:
    """Memory is short, or the platform stops. Those that a job has are the job's."""
    for waiting in WaitingContainer.objects.exclude(state=State.TAKEN):
        _give_up(waiting, engine)


def memory_mb() -> int:
    """What they hold, which any job may have."""
    return MEMORY_MB * WaitingContainer.objects.exclude(state=State.TAKEN).count()


def clear_away(engine: Engine) -> None:
    """Gives up what is not wanted any more, and removes what nobody knows. Raises EngineError."""
    labels = {"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": "waiting"}
    # Seen before the rows are read: a row is there before its container.
    seen = {state.id: state for state in engine.find(labels)}
    running = {pk for pk, state in seen.items() if state.running}
    for waiting in WaitingContainer.objects.select_related("attempt"):
        if waiting.state == State.TAKEN:
            if waiting.attempt is None or waiting.attempt.finished_at is not None:
                _remove(waiting, engine)
        elif _is_stale(waiting, engine, running):
            _give_up(waiting, engine)
    known = WaitingContainer.objects.exclude(container_id="")
    known_ids = set(known.values_list("container_id", flat=True))
    known_rows = {str(pk) for pk in WaitingContainer.objects.values_list("pk", flat=True)}
    for container_id, state in seen.items():
        if container_id not in known_ids and state.labels.get("mlops.waiting") not in known_rows:
            engine.remove(container_id)
    for folder in settings.JOBS_DIR.glob("waiting-*"):
        if folder.name.removeprefix("waiting-") not in known_rows:
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(waiting: WaitingContainer, engine: Engine, running: set[str]) -> bool:
    age = timezone.now() - waiting.created_at
    if waiting.state == State.STARTING:
        return age > STARTING_MAX
    if waiting.container_id not in running or age > AGE_MAX:
        return True
    if waiting.environment_key not in _wanted():
        return True
    environment = engine_room.environment(waiting.environment_key)
    if environment is None or waiting.shape != _shape(environment):
        return True
    return waiting.image != engine.image_id(environment.image or settings.RUNNER_IMAGE)


def _give_up(waiting: WaitingContainer, engine: Engine) -> None:
    """Unless a job takes it in this moment."""
    free = WaitingContainer.objects.filter(pk=waiting.pk).exclude(state=State.TAKEN)
    if free.update(state=State.TAKEN):
        _remove(waiting, engine)


def _remove(waiting: WaitingContainer, engine: Engine) -> None:
    """The row last: it is what the rest is found by."""
    if waiting.container_id:
        engine.remove(waiting.container_id)
    shutil.rmtree(containers.waiting_folder(waiting.pk), ignore_errors=True)
    waiting.delete()


def _wanted() -> dict[str, int]:
    """How many for which environment: those of the newest jobs first, one each, then a second."""
    room = settings.WAITING_CONTAINERS
    keys = _used_lately()
    wanted: Counter[str] = Counter()
    for _ in range(PER_ENVIRONMENT):
        for key in islice(keys, max(0, room - wanted.total())):
            wanted[key] += 1
    return dict(wanted)


def _used_lately() -> list[str]:
    newest = Job.objects.filter(created_at__gte=timezone.now() - USED_LATELY)
    keys = newest.order_by("-created_at", "-id").values_list("environment_key", flat=True)
    return list(dict.fromkeys(key for key in keys[:JOBS_LOOKED_AT] if key))


def _somebody_is_busy() -> bool:
    """A job waits or is made ready, or memory is short: it must not wait for this. Or the engine
    is being drained."""
    on_its_way = Q(status=Status.QUEUED) | Q(
        status=Status.RUNNING, phase__in=[Phase.BUILDING_ENVIRONMENT, Phase.STARTING]
    )
    if Job.objects.filter(on_its_way).exists() or claim.builders_busy():
        return True
    measured = EngineCapacity.objects.filter(engine=claim.LOCAL_ENGINE).first()
    if measured is None or measured.short_of or holds.is_draining(claim.LOCAL_ENGINE):
        return True
    # As much must be left when all of them are there, or they would come and go.
    return is_short(measured.memory_free_mb - MEMORY_MB * settings.WAITING_CONTAINERS)


def is_short(free_mb: int) -> bool:
    """Whether the host has no memory to spare for waiting."""
    return free_mb < settings.MEMORY_FREE_MB + MEMORY_MB * settings.WAITING_CONTAINERS


def _of_environment(environment: Environment) -> QuerySet[WaitingContainer]:
    return WaitingContainer.objects.filter(
        engine=claim.LOCAL_ENGINE, environment_key=environment.key, shape=_shape(environment)
    )


def _shape(environment: Environment) -> str:
    return _spec(WaitingContainer(pk=0), environment).shape


def _spec(waiting: WaitingContainer, environment: Environment) -> SandboxSpec:
    return containers.waiting_spec_of(
        waiting.pk,
        environment=environment,
        platform_folder=engine_room.environments(environment.image).platform_folder(),
    )
