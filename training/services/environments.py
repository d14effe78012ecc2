"""The environments that this engine has, as rows: what is in them, who needs them, what is asked.

Workers look into the store and write the rows; the web process reads them and asks. A wish stands
in the row (`asked`), the supervisor queues a task for it, and a worker grants it or says why not.
"""

import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import chain

from django.conf import settings
from django.db.models import Count, F, Q
from django.utils import timezone
from django_q.tasks import async_task
from rest_framework.exceptions import APIException, NotFound

from registry.doorbell import SUPERVISOR_BELL
from registry.mlflow_client import ModelRegistry, RegistryUnavailable, model_registry
from sandbox.engine import EngineError, EngineUnavailable
from sandbox.environments import (
    BuildStopped,
    Environment,
    EnvironmentFailed,
    EnvironmentInUse,
    EnvironmentStore,
)
from sandbox.image.lock_file import pins_in
from training import engine_room
from training.models import Attempt, BuiltEnvironment, Job
from training.python_versions import version_of
from training.services.claim import builders_busy
from training.states import Phase, Status

log = logging.getLogger(__name__)

GRANT_TASK = "training.tasks.change_environment"
# Between two tries to grant one wish: a task was lost, or a container had the environment.
GRANT_AGAIN = timedelta(seconds=30)
# A look at what models need comes every ten minutes, and may be late.
LOOK_EVERY = timedelta(minutes=20)
BUILD_LOG_CHARACTERS = 200_000
NEEDERS_NAMED = 5
# Below the high mark by so much, or the next build would begin it all again.
LOW_MARK = 0.9
MB = 1_000_000
BATCH = 500
WATCH_SECONDS = 1.0
NOT_ITS_BASE = (
    "It has no hashes, or was made on a base image that is not in use any more. A job with the "
    "same requirements, or the model that needs it, gets one with the same versions."
)
State = BuiltEnvironment.State
Asked = BuiltEnvironment.Asked
Needers = Callable[[], Mapping[str, Sequence[str]]]
# By the key of an environment, name and version of each model.
Served = Callable[[], Mapping[str, Sequence[tuple[str, str]]]]
_others: list[Needers] = []
_served: list[Served] = []


class EnvironmentNotFound(NotFound):
    default_code = "environment_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"Environment {key} not found")
        self.hint = "GET /mlops/environments lists them."


class EnvironmentNeeded(APIException):
    """It cannot be deleted or built again now; the sentence says by whom it is needed."""

    status_code = HTTPStatus.CONFLICT
    default_code = "environment_needed"

    def __init__(self, key: str, needed_by: Sequence[str]) -> None:
        more = len(needed_by) - NEEDERS_NAMED
        shown = [*needed_by[:NEEDERS_NAMED], *([f"{more} more"] if more > 0 else [])]
        super().__init__(f"Environment {key} is needed by {', '.join(shown)}.")
        self.hint = "Wait until they have ended, or delete the models that were made in it."


class EnvironmentUnknown(APIException):
    """Nobody knows its lock, so it cannot be built again."""

    status_code = HTTPStatus.CONFLICT
    default_code = "environment_without_lock"

    def __init__(self, key: str) -> None:
        super().__init__(f"Environment {key} has no lock, so it cannot be built again.")
        self.hint = "Send a job with the same requirements."


def also_needed_by(needers: Needers) -> None:
    """Another room says who uses which environment now, by its key."""
    _others.append(needers)


def also_kept_for(served: Served) -> None:
    """Another room says which models had which environment, whoever registered them."""
    _served.append(served)


# -- for the web process ---------------------------------------------------------------------------
def environment_of(key: str) -> BuiltEnvironment:
    """Raises EnvironmentNotFound."""
    found = BuiltEnvironment.objects.filter(pk=key).first()
    if found is None:
        raise EnvironmentNotFound(key)
    return found


def page(
    *, state: str = "", limit: int, after: tuple[datetime, str] | None = None
) -> list[BuiltEnvironment]:
    """Newest first, without the long columns; those that follow `after`."""
    rows = BuiltEnvironment.objects.defer("lock", "pylock", "build_log")
    if state:
        rows = rows.filter(state=state)
    if after is not None:
        created_at, key = after
        rows = rows.filter(Q(created_at__lt=created_at) | Q(created_at=created_at, key__lt=key))
    return list(rows.order_by("-created_at", "-key")[:limit])


def in_use(key: str) -> list[str]:
    """Who has it now: jobs that run, and what other rooms say."""
    jobs = Attempt.objects.filter(finished_at=None, job__environment_key=key)
    named = [f"job {job_id}" for job_id in jobs.values_list("job_id", flat=True)[:NEEDERS_NAMED]]
    return [*named, *(who for needers in _others for who in needers().get(key, ()))]


def ask_rebuild(key: str) -> BuiltEnvironment:
    """It is built again from its lock. Raises EnvironmentNotFound, EnvironmentNeeded, …Unknown."""
    environment = environment_of(key)
    if not environment.lock:
        raise EnvironmentUnknown(key)
    users = in_use(key)
    if users:
        raise EnvironmentNeeded(key, users)
    return _ask(environment, Asked.REBUILD)


def ask_delete(key: str) -> BuiltEnvironment:
    """Its folder goes; row and lock stay while a job names it. Raises …NotFound, …Needed.

    A model that needs it keeps it, since nobody can say when the model is asked next.
    """
    environment = environment_of(key)
    users = [*in_use(key), *environment.needed_by, *_registered_lately(key)]
    if users:
        raise EnvironmentNeeded(key, users)
    return _ask(environment, Asked.DELETE)


def _registered_lately(key: str) -> list[str]:
    """Models that are newer than the last look at them."""
    jobs = Job.objects.filter(environment_key=key, completed_at__gte=timezone.now() - LOOK_EVERY)
    models = jobs.exclude(model_version="").order_by().values_list("model_name", "model_version")
    return [f"model {name} version {version}" for name, version in models[:NEEDERS_NAMED]]


def _ask(environment: BuiltEnvironment, asked: Asked) -> BuiltEnvironment:
    BuiltEnvironment.objects.filter(pk=environment.pk).update(
        asked=asked, asked_at=timezone.now(), queued_at=None
    )
    environment.refresh_from_db()
    SUPERVISOR_BELL.ring_on_commit()
    return environment


# -- for the supervisor ----------------------------------------------------------------------------
def dispatch() -> None:
    """Queues a task for the oldest wish, one at a time.

    Again after a while, since a task may be lost; a build is given the time that a build may take.
    """
    wishes = BuiltEnvironment.objects.exclude(asked="")
    if not wishes.exists():
        return
    now = timezone.now()
    late = now - GRANT_AGAIN
    dead = late - timedelta(seconds=settings.ENVIRONMENT_BUILD_SECONDS)
    building = wishes.filter(state=State.BUILDING, queued_at__gte=dead)
    if building.exists() or builders_busy():
        return
    due = wishes.filter(Q(queued_at=None) | Q(queued_at__lt=late)).order_by("asked_at").first()
    if due is not None and wishes.filter(pk=due.pk).update(queued_at=now):
        async_task(GRANT_TASK, due.pk, save=False)


def ask_again() -> None:
    """The queue has lost its tasks; a build that is under way has its own."""
    wishes = BuiltEnvironment.objects.exclude(asked="").exclude(state=State.BUILDING)
    wishes.update(queued_at=None)


# -- for the worker --------------------------------------------------------------------------------
def note_used(environment: Environment, *, new_jobs: int) -> None:
    """A container starts in it, for so many jobs that never had one before."""
    now = timezone.now()
    known = BuiltEnvironment.objects.filter(pk=environment.key)
    changed = known.update(last_used_at=now, jobs=F("jobs") + new_jobs, state=State.READY)
    if not changed:
        _make_row_of(environment, at=now)
        known.update(last_used_at=now, jobs=F("jobs") + new_jobs)


def note_built(environment: Environment, *, build_log: str, seconds: float) -> None:
    """A build ended well."""
    now = timezone.now()
    _make_row_of(environment, at=now)
    BuiltEnvironment.objects.filter(pk=environment.key).update(
        state=State.READY,
        python_version=version_of(environment.image),
        built_at=now,
        build_log=build_log[-BUILD_LOG_CHARACTERS:],
        build_seconds=round(seconds, 1),
        error="",
    )


def change(key: str) -> None:
    """Grants what is asked for an environment; a second delivery finds nothing to do."""
    environment = BuiltEnvironment.objects.filter(pk=key).exclude(asked="").first()
    if environment is None:
        return
    if environment.asked == Asked.DELETE:
        _delete(environment, engine_room.environments())
    else:
        _rebuild(environment)


def lock_of(key: str) -> str:
    """The lock of an environment that a host's own store may have lost; empty without one."""
    return BuiltEnvironment.objects.filter(pk=key).values_list("lock", flat=True).first() or ""


def pylock_of(key: str) -> str:
    """The lock as PEP 751 has it; empty for an environment of long ago."""
    return BuiltEnvironment.objects.filter(pk=key).values_list("pylock", flat=True).first() or ""


def _delete(environment: BuiltEnvironment, store: EnvironmentStore) -> None:
    """Somebody may have begun to use it since: then the wish is dropped, and the row says so.

    While MLflow does not answer, the wish waits.
    """
    try:
        _note_models(model_registry())
    except RegistryUnavailable:
        return
    environment.refresh_from_db()
    users = [*in_use(environment.key), *environment.needed_by]
    if users:
        _granted(environment, error=str(EnvironmentNeeded(environment.key, users).detail))
    elif store.remove(environment.key):
        log.info("environment.deleted", extra={"environment": environment.key})
        _granted(environment, state=State.GONE, size_bytes=0)


def _rebuild(environment: BuiltEnvironment) -> None:
    rows = BuiltEnvironment.objects.filter(pk=environment.pk)
    if in_use(environment.key):
        # Somebody began since it was asked for: the wish waits.
        return
    rows.update(state=State.BUILDING, error="")
    output, started = bytearray(), time.monotonic()
    try:
        built = _built_again(environment, output=output.extend)
    except EnvironmentInUse:
        rows.update(state=State.READY)
        return
    except EnvironmentFailed as error:
        _granted(environment, state=State.FAILED, error=f"{error.detail} {error.hint}")
    except (EngineError, EngineUnavailable):
        log.exception("environment.engine_failed", extra={"environment": environment.key})
        _granted(environment, state=State.FAILED, error="The container engine failed.")
    else:
        if built is None:
            _granted(environment, state=State.GONE, error=NOT_ITS_BASE)
            return
        seconds = time.monotonic() - started
        note_built(built, build_log=output.decode(errors="replace"), seconds=seconds)
        _granted(environment)
    rows.update(build_log=output.decode(errors="replace")[-BUILD_LOG_CHARACTERS:])


def _built_again(
    environment: BuiltEnvironment, *, output: Callable[[bytes], None]
) -> Environment | None:
    """By the store of its Python; None when no base image that is offered is the one it had.

    Raises EnvironmentInUse, EnvironmentFailed, EngineError, EngineUnavailable.
    """
    key, stores = environment.key, engine_room.every_store()
    rebuilt = (store.rebuild(key, output=output) for store in stores)
    restored = (store.restore(key, output=output, lock=environment.lock) for store in stores)
    return next((built for built in chain(rebuilt, restored) if built is not None), None)


def _granted(environment: BuiltEnvironment, **values: str | int) -> None:
    rows = BuiltEnvironment.objects.filter(pk=environment.pk)
    rows.update(asked="", asked_at=None, queued_at=None, **values)


def _make_row_of(environment: Environment, *, at: datetime) -> None:
    _make_row(
        environment.key,
        lock=environment.lock,
        pylock=environment.pylock,
        python_version=version_of(environment.image),
        at=at,
    )


def _make_row(key: str, *, lock: str, pylock: str, python_version: str, at: datetime) -> None:
    made = {"lock": lock, "pylock": pylock, "packages": len(pins_in(lock))}
    made["python_version"] = python_version
    BuiltEnvironment.objects.get_or_create(
        pk=key, defaults={**made, "created_at": at, "built_at": at}
    )


# -- housekeeping, by a worker ---------------------------------------------------------------------
def keep_house(registry: ModelRegistry) -> None:
    """Rows and store agree again; above the high mark the least recently used ones go.

    Raises EngineError, EngineUnavailable. While MLflow does not answer, nobody can say which ones a
    model needs: then none goes.
    """
    store = engine_room.environments()
    _look(store)
    _count_jobs()
    try:
        _note_models(registry)
    except RegistryUnavailable:
        log.warning("environments.not_evicted: MLflow does not answer")
        return
    _keep_within(store, max_bytes=settings.ENVIRONMENTS_MAX_MB * MB)
    BuiltEnvironment.objects.filter(state=State.GONE, jobs=0, needed_by=[], asked="").delete()


def preload() -> bool:
    """Builds the sets that most first jobs ask for, while no job wants to build anything.

    A job that comes meanwhile ends it: False says that it is to be begun again. A set that cannot
    be built is no failure of anybody: the job that asks for it is told why.
    """
    store = engine_room.environments()
    for requirements in settings.PRELOADED_ENVIRONMENTS:
        if store.find(requirements) is not None:
            continue
        if not is_idle() or not _preload(store, requirements):
            return False
    return True


def _preload(store: EnvironmentStore, requirements: Sequence[str]) -> bool:
    """Whether nothing came in between."""
    over, stop = threading.Event(), threading.Event()
    output, started = bytearray(), time.monotonic()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if not is_idle():
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="preload-watcher", daemon=True)
    watcher.start()
    try:
        built = store.build(requirements, output=output.extend, stop=stop)
    except BuildStopped:
        log.info("environment.preload_put_off")
        return False
    except EnvironmentFailed as error:
        log.warning("environment.not_preloaded: %s", error.detail)
    else:
        seconds = time.monotonic() - started
        note_built(built, build_log=output.decode(errors="replace"), seconds=seconds)
    finally:
        over.set()
        watcher.join()
    return True


def is_idle() -> bool:
    """No job waits, and none has its environment built."""
    waiting = Q(status=Status.QUEUED) | Q(status=Status.RUNNING, phase=Phase.BUILDING_ENVIRONMENT)
    return not Job.objects.filter(waiting).exists()


def _look(store: EnvironmentStore) -> None:
    """What the store has gets a row; a row whose folder is gone says so."""
    there = {one.key: one for one in store.stored()}
    known = set(BuiltEnvironment.objects.values_list("key", flat=True))
    for key, one in there.items():
        if key not in known:
            # Not `get`: to be looked at is not to be used.
            lock, pylock = store.lock_files(key)
            at, python = _moment(one.built_at), _python_of(key, lock)
            _make_row(key, lock=lock, pylock=pylock, python_version=python, at=at)
        rows = BuiltEnvironment.objects.filter(pk=key)
        if rows.filter(python_version="").exists():
            # Of before there was a choice, or of a base image that is offered again.
            rows.update(python_version=_python_of(key, store.lock_files(key)[0]))
        rows.update(size_bytes=one.size_bytes)
        used = _moment(one.used_at)
        rows.filter(Q(last_used_at=None) | Q(last_used_at__lt=used)).update(last_used_at=used)
        rows.filter(state=State.GONE).update(state=State.READY)
    gone = BuiltEnvironment.objects.filter(state=State.READY).exclude(key__in=there)
    gone.update(state=State.GONE, size_bytes=0)


def _python_of(key: str, lock: str) -> str:
    """Of an environment that is there; empty when no base image of today is the one it had."""
    images = settings.PYTHON_IMAGES.items()
    fits = (python for python, image in images if engine_room.environments(image).fits(key, lock))
    return next(fits, "")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _count_jobs() -> None:
    counted = Job.objects.exclude(environment_key="").order_by().values("environment_key")
    counts = {row["environment_key"]: row["jobs"] for row in counted.annotate(jobs=Count("pk"))}
    for row in BuiltEnvironment.objects.only("key", "jobs"):
        if row.jobs != counts.get(row.key, 0):
            BuiltEnvironment.objects.filter(pk=row.pk).update(jobs=counts.get(row.key, 0))


def _note_models(registry: ModelRegistry) -> None:
    """Which environment the registered models were made in, by the jobs that made them; of those
    that no job made, the one that served them. Raises RegistryUnavailable.
    """
    needed: dict[str, set[str]] = defaultdict(set)
    registered = registry.registered_versions()
    for served in _served:
        for key, versions in served().items():
            there = registered.intersection(versions)
            needed[key] |= {f"model {name} version {version}" for name, version in there}
    for some in _batches(sorted(filter(_is_uuid, registry.jobs_with_models()))):
        jobs = Job.objects.filter(pk__in=some).exclude(environment_key="").order_by()
        columns = ("environment_key", "model_name", "model_version")
        for key, name, version in jobs.values_list(*columns):
            needed[key].add(f"model {name} version {version}" if version else f"model {name}")
    for row in BuiltEnvironment.objects.only("key", "needed_by"):
        models = sorted(needed.get(row.key, ()))
        if row.needed_by != models:
            BuiltEnvironment.objects.filter(pk=row.pk).update(needed_by=models)


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + BATCH] for start in range(0, len(names), BATCH))


def _is_uuid(text: str) -> bool:
    """A run's tag is what somebody wrote there."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _keep_within(store: EnvironmentStore, *, max_bytes: int) -> None:
    """First what can be downloaded again, then the environments that nobody used for longest."""
    stored = store.stored()
    used, cache = sum(one.size_bytes for one in stored), store.cache_bytes()
    if not max_bytes or used + cache <= max_bytes:
        return
    store.prune_cache()
    needed = _needed_keys()
    for one in stored:
        if used <= max_bytes * LOW_MARK:
            return
        if one.key not in needed and not in_use(one.key) and store.remove(one.key):
            used -= one.size_bytes
            log.info("environment.evicted", extra={"environment": one.key})
            gone = BuiltEnvironment.objects.filter(pk=one.key)
            gone.update(state=State.GONE, size_bytes=0)


def _needed_keys() -> set[str]:
    rows = BuiltEnvironment.objects.only("key", "needed_by")
    return {row.key for row in rows if row.needed_by}
