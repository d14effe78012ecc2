"""Keeps the environments of this host in order: rows that tell the truth, a budget of disk, and
what is to be there before anybody asks.

Workers call this every few minutes. Nothing that a job, a server or a registered model needs goes.
"""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product

from django.conf import settings
from django.db.models import Count, Q

from registry.mlflow_client import ModelRegistry, RegistryUnavailable
from sandbox.environments import BuildStopped, EnvironmentFailed, EnvironmentStore
from training import engine_room
from training.models import BuiltEnvironment, Job
from training.services.environment_needs import in_use, needed_keys, note_models
from training.services.environments import MB, State, is_idle, make_row, note_built

log = logging.getLogger(__name__)

# Below the high mark by so much, or the next build would begin it all again.
LOW_MARK = 0.9
WATCH_SECONDS = 1.0


def keep_house(registry: ModelRegistry) -> None:
    """Rows and store agree again; above the high mark the least recently used ones go.

    Raises EngineError, EngineUnavailable. While MLflow does not answer, nobody can say which ones a
    model needs: then none goes.
    """
    store = engine_room.environments()
    _look(store)
    _count_jobs()
    try:
        note_models(registry)
    except RegistryUnavailable:
        log.warning("environments.not_evicted: MLflow does not answer")
        return
    _keep_within(store, max_bytes=settings.ENVIRONMENTS_MAX_MB * MB)
    BuiltEnvironment.objects.filter(state=State.GONE, jobs=0, needed_by=[], asked="").delete()


def preload() -> bool:
    """Builds the sets that most first jobs ask for, for each Python, while no job wants a build.

    A job that comes meanwhile ends it: False says that it is to be begun again. A set that cannot
    be built is no failure of anybody: the job that asks for it is told why.
    """
    stores = engine_room.every_store()
    for store, requirements in product(stores, settings.PRELOADED_ENVIRONMENTS):
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


def _look(store: EnvironmentStore) -> None:
    """What the store has gets a row; a row whose folder is gone says so."""
    there = {one.key: one for one in store.stored()}
    known = set(BuiltEnvironment.objects.values_list("key", flat=True))
    for key, one in there.items():
        if key not in known:
            # Not `get`: to be looked at is not to be used.
            lock, pylock = store.lock_files(key)
            at, python = _moment(one.built_at), _python_of(key, lock)
            make_row(key, lock=lock, pylock=pylock, python_version=python, at=at)
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


def _keep_within(store: EnvironmentStore, *, max_bytes: int) -> None:
    """First what can be downloaded again, then the environments that nobody used for longest."""
    stored = store.stored()
    used, cache = sum(one.size_bytes for one in stored), store.cache_bytes()
    if not max_bytes or used + cache <= max_bytes:
        return
    store.prune_cache()
    needed = needed_keys()
    for one in stored:
        if used <= max_bytes * LOW_MARK:
            return
        if one.key not in needed and not in_use(one.key) and store.remove(one.key):
            used -= one.size_bytes
            log.info("environment.evicted", extra={"environment": one.key})
            gone = BuiltEnvironment.objects.filter(pk=one.key)
            gone.update(state=State.GONE, size_bytes=0)
