"""The environments that this engine has, as rows: what is in them, who needs them, what is asked.

Workers look into the store and write the rows; the web process reads them and asks. A wish stands
in the row (`asked`), the supervisor queues a task for it, and a worker grants it or says why not.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import chain

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django_q.tasks import async_task
from rest_framework.exceptions import APIException, NotFound

from registry import audit, holds
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from registry.mlflow_client import RegistryUnavailable, model_registry
from sandbox.engine import EngineError, EngineUnavailable
from sandbox.environments import (
    Environment,
    EnvironmentFailed,
    EnvironmentInUse,
    EnvironmentStore,
)
from sandbox.image.lock_file import name_and_version, pins_in
from training import engine_room
from training.models import BuiltEnvironment, EnvironmentPackage, Job
from training.python_versions import version_of
from training.services.build_output import BuildOutput, kept
from training.services.claim import LOCAL_ENGINE, builders_busy
from training.services.environment_needs import in_use, models_in, note_models
from training.states import Phase, Status

log = logging.getLogger(__name__)

GRANT_TASK = "training.tasks.change_environment"
# Between two tries to grant one wish: a task was lost, or a container had the environment.
GRANT_AGAIN = timedelta(seconds=30)
NEEDERS_NAMED = 5
MB = 1_000_000
NOT_ITS_BASE = (
    "It has no hashes, or was made on a base image that is not in use any more. A job with the "
    "same requirements, or the model that needs it, gets one with the same versions."
)
State = BuiltEnvironment.State
Asked = BuiltEnvironment.Asked
ACTS = {Asked.REBUILD: Act.ENVIRONMENT_REBUILD, Asked.DELETE: Act.ENVIRONMENT_DELETE}


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


# -- for the web process ---------------------------------------------------------------------------
def environment_of(key: str) -> BuiltEnvironment:
    """Raises EnvironmentNotFound."""
    found = BuiltEnvironment.objects.filter(pk=key).first()
    if found is None:
        raise EnvironmentNotFound(key)
    return found


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
    users = [*in_use(key), *models_in([environment])[key]]
    if users:
        raise EnvironmentNeeded(key, users)
    return _ask(environment, Asked.DELETE)


def _ask(environment: BuiltEnvironment, asked: Asked) -> BuiltEnvironment:
    with transaction.atomic():
        BuiltEnvironment.objects.filter(pk=environment.pk).update(
            asked=asked, asked_at=timezone.now(), queued_at=None
        )
        audit.record(ACTS[asked], Kind.ENVIRONMENT, environment.pk)
        SUPERVISOR_BELL.ring_on_commit()
    environment.refresh_from_db()
    return environment


# -- for the supervisor ----------------------------------------------------------------------------
def dispatch() -> None:
    """Queues a task for the oldest wish, one at a time.

    Again after a while, since a task may be lost; a build is given the time that a build may take.
    """
    wishes = BuiltEnvironment.objects.exclude(asked="")
    if not wishes.exists() or holds.is_draining(LOCAL_ENGINE):
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


def is_idle() -> bool:
    """No job waits, none has its environment built, and nobody drains the engine."""
    waiting = Q(status=Status.QUEUED) | Q(status=Status.RUNNING, phase=Phase.BUILDING_ENVIRONMENT)
    return not Job.objects.filter(waiting).exists() and not holds.is_draining(LOCAL_ENGINE)


# -- for the worker --------------------------------------------------------------------------------
def note_used(environment: Environment, *, new_jobs: int) -> None:
    """A container starts in it, for so many jobs that never had one before."""
    now = timezone.now()
    known = BuiltEnvironment.objects.filter(pk=environment.key)
    used = {
        "state": State.READY,
        "last_used_at": now,
        "jobs": F("jobs") + new_jobs,
        "size_bytes": environment.size_bytes,
    }
    if not known.update(**used):
        _make_row_of(environment, at=now)
        known.update(**used)


def note_built(environment: Environment, *, build_log: str, seconds: float) -> None:
    """A build ended well."""
    now = timezone.now()
    _make_row_of(environment, at=now)
    BuiltEnvironment.objects.filter(pk=environment.key).update(
        state=State.READY,
        size_bytes=environment.size_bytes,
        python_version=version_of(environment.image),
        built_at=now,
        build_log=kept(build_log),
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
        note_models(model_registry())
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
    rows.update(state=State.BUILDING, error="", build_log="")
    output, started = BuildOutput(environment.key), time.monotonic()
    try:
        built = _built_again(environment, output=output.write)
    except EnvironmentInUse:
        rows.update(state=State.READY, build_log=environment.build_log)
        return
    except EnvironmentFailed as error:
        _build_failed(environment, output, error=f"{error.detail} {error.hint}")
    except (EngineError, EngineUnavailable):
        log.exception("environment.engine_failed", extra={"environment": environment.key})
        _build_failed(environment, output, error="The container engine failed.")
    else:
        if built is None:
            told = environment.build_log
            _granted(environment, state=State.GONE, error=NOT_ITS_BASE, build_log=told)
            return
        note_built(built, build_log=output.text, seconds=time.monotonic() - started)
        _granted(environment)


def _build_failed(environment: BuiltEnvironment, output: BuildOutput, *, error: str) -> None:
    _granted(environment, state=State.FAILED, error=error, build_log=kept(output.text))


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
    make_row(
        environment.key,
        lock=environment.lock,
        pylock=environment.pylock,
        python_version=version_of(environment.image),
        at=at,
    )


def make_row(key: str, *, lock: str, pylock: str, python_version: str, at: datetime) -> None:
    """Unless there is one."""
    pins = pins_in(lock)
    made = {"lock": lock, "pylock": pylock, "packages": len(pins)}
    made["python_version"] = python_version
    with transaction.atomic():
        row, is_new = BuiltEnvironment.objects.get_or_create(
            pk=key, defaults={**made, "created_at": at, "built_at": at}
        )
        if is_new:
            EnvironmentPackage.objects.bulk_create(packages_of(row, pins))


def packages_of(environment: BuiltEnvironment, pins: Sequence[str]) -> list[EnvironmentPackage]:
    """As rows that are not written yet; what is longer than a name may be is cut."""
    return [
        EnvironmentPackage(
            environment=environment,
            name=name[: EnvironmentPackage.NAME_CHARACTERS],
            version=version[: EnvironmentPackage.VERSION_CHARACTERS],
        )
        for name, version in map(name_and_version, pins)
    ]
