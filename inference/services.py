"""The life of a model server: ensure, start, use, stop, reconcile. Nothing else writes its state.

Whoever starts a server holds its claim, with name and time; every write of that work is guarded by
its token, and zero rows changed means that the server is somebody else's now. No call to Docker or
MLflow happens inside a transaction, and `ensure_server`, `look`, `touch` and `stop` need neither:
the web process calls them.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone
from django_q.tasks import async_task
from rest_framework.exceptions import APIException

from inference import containers, engine_room, model_files
from inference.failures import StartFailed, unreachable
from inference.models import ModelServer
from registry.mlflow_client import ModelRegistry, ModelVersion, model_registry
from sandbox import holders
from sandbox.engine import ContainerState, Engine, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import EnvironmentFailed

log = logging.getLogger(__name__)

START_TASK = "inference.tasks.start_server"
STOP_TASK = "inference.tasks.stop_server"
CLAIM_SECONDS = 60
CLAIM_RENEW_SECONDS = 15
# How long a queued task may be under way before the supervisor queues it again.
TASK_PATIENCE_SECONDS = 30
RETRY_PERMANENT_SECONDS = 60
RETRY_PASSING_SECONDS = 5
STOP_GRACE_SECONDS = 5
PASSING_REASONS = frozenset(
    {
        "engine_failed",
        "registry_unavailable",
        "container_gone",
        "no_room",
        "platform_incomplete",
        "host_failed",
        "package_index_unreachable",
        "network_not_held",
    }
)
Status = ModelServer.Status


class ClaimLost(Exception):
    """Somebody else starts or has stopped this server; whoever raised this leaves it alone."""


@dataclass(frozen=True)
class ServerView:
    """What a caller of a server needs to know of it."""

    id: int
    status: str
    address: str
    token: str
    source: str
    reason: str
    error: str


# -- for the web process ------------------------------------------------------------------------
def warm(model_name: str, version: str) -> None:
    """Makes the version ready to answer, so that the first request finds it warm."""
    ensure_server(model_name, version)


def ensure_server(model_name: str, version: str, *, source: str = "") -> ServerView:
    """The server of a version; one that is not there, stopped, or failed long enough ago starts.

    With `source`, one that serves other files than these starts anew: the version's number was
    given again after its model was deleted.
    """
    now = timezone.now()
    with transaction.atomic():
        server, created = ModelServer.objects.get_or_create(
            model_name=model_name,
            version=version,
            defaults={"created_at": now, "changed_at": now, "last_used_at": now},
        )
        if created or _restart(server, source):
            server.refresh_from_db()
    return _view(server)


def look(server_id: int) -> ServerView | None:
    """The server as it is now; None when its row is gone."""
    server = ModelServer.objects.filter(pk=server_id).first()
    return _view(server) if server else None


def report_gone(server_id: int, token: str) -> None:
    """A caller could not reach a ready server: a worker looks, and starts it again if need be."""
    with transaction.atomic():
        changed = ModelServer.objects.filter(pk=server_id, status=Status.READY, token=token).update(
            status=Status.STARTING, claim_expires_at=None, queued_at=None, **_now()
        )
        if changed:
            log.warning("server.reported_gone", extra={"server": server_id})


def touch(server_id: int) -> None:
    """Remembers that the server is used; the least recently used one is stopped first."""
    ModelServer.objects.filter(pk=server_id).update(last_used_at=timezone.now())


def environments_in_use() -> dict[str, list[str]]:
    """Which environments a server has now, or will have in a moment, and which servers they are."""
    live = [Status.STARTING, Status.READY, Status.STOPPING]
    found: dict[str, list[str]] = {}
    for server in ModelServer.objects.filter(status__in=live).exclude(environment_key=""):
        name = f"the server of {server.model_name} version {server.version}"
        found.setdefault(server.environment_key, []).append(name)
    return found


def environments_served() -> dict[str, list[tuple[str, str]]]:
    """In which environment each version was served last, as name and version."""
    found: dict[str, list[tuple[str, str]]] = {}
    rows = ModelServer.objects.exclude(environment_key="").order_by()
    for key, name, version in rows.values_list("environment_key", "model_name", "version"):
        found.setdefault(key, []).append((name, version))
    return found


def stop(server_id: int) -> bool:
    """Asks for a stop; whether there was anything to stop. The next request starts it again."""
    with transaction.atomic():
        changed = ModelServer.objects.filter(
            pk=server_id, status__in=[Status.STARTING, Status.READY]
        ).update(
            status=Status.STOPPING,
            claim=uuid.uuid4(),
            claim_expires_at=None,
            queued_at=None,
            **_now(),
        )
    return bool(changed)


# -- for the worker -----------------------------------------------------------------------------
def start_server(server_id: int) -> None:
    """From a row that is starting to a server that answers, or to the reason why it does not."""
    claim = _claim(server_id)
    if claim is None:
        return
    with contextlib.suppress(ClaimLost), _renewed(server_id, claim):
        # What stays if an error comes that nobody foresaw: it goes on to the log, the row ends.
        failure: StartFailed | None = StartFailed(
            "unexpected", "The model's server could not be started."
        )
        try:
            _start(server_id, claim)
            failure = None
        except StartFailed as known:
            failure = known
        finally:
            if failure is not None:
                _fail(server_id, claim, failure)


def stop_server(server_id: int) -> None:
    """Ends the container of a server that is stopping. Raises EngineError, EngineUnavailable."""
    if not ModelServer.objects.filter(pk=server_id, status=Status.STOPPING).exists():
        return
    _end_container(containers.container_name(server_id))
    changed = ModelServer.objects.filter(pk=server_id, status=Status.STOPPING).update(
        status=Status.STOPPED, container_id="", address="", token="", **_now()
    )
    if changed:
        log.info("server.stopped", extra={"server": server_id})


def _start(server_id: int, claim: uuid.UUID) -> None:
    """Raises StartFailed and ClaimLost; every error of the other rooms becomes a StartFailed."""
    server = ModelServer.objects.get(pk=server_id)
    try:
        engine = engine_room.engine()
        if _still_there(server, engine):
            _write(server_id, claim, status=Status.READY, phase="")
            return
        _start_anew(server, claim, engine=engine, registry=model_registry())
    except SandboxMismatch as error:
        log.exception("server.sandbox_mismatch", extra={"server": server_id})
        sentence = "The container was not as locked down as it must be, so it was not started."
        raise StartFailed("sandbox_refused", sentence) from error
    except (EngineError, EngineUnavailable) as error:
        log.exception("server.engine_failed", extra={"server": server_id})
        sentence = "The container engine failed to start the model's server."
        raise StartFailed("engine_failed", sentence) from error
    except EnvironmentFailed as error:
        raise StartFailed("platform_incomplete", error.detail) from error


def _start_anew(
    server: ModelServer,
    claim: uuid.UUID,
    *,
    engine: Engine,
    registry: ModelRegistry,
) -> None:
    _write(server.pk, claim, phase="preparing")
    version = _version(server, registry)
    # From here on the files of this source are this server's: nobody clears them away.
    _write(server.pk, claim, source=version.source)
    # Before the environment is looked for: a download takes longer than one that is found is held.
    folder = model_files.model_folder(version, registry=registry)
    _make_room(server.pk)
    _refuse_without_network_rules(server.pk)
    stores = engine_room.every_store()
    environment = containers.environment_of(version, stores=stores, registry=registry)
    store = engine_room.environments(environment.image)
    # From here on nobody deletes the environment. A container of this name is removed next: it must
    # not be one that somebody else has started.
    _write(server.pk, claim, phase="starting", environment_key=environment.key)
    running = containers.run(
        server_id=server.pk, engine=engine, store=store, environment=environment, folder=folder
    )
    try:
        _write(
            server.pk,
            claim,
            container_id=running.container_id,
            token=running.token,
        )
        address = containers.wait_until_ready(
            running,
            engine=engine,
            seconds=settings.SERVER_START_SECONDS,
            report=lambda phase: _write(server.pk, claim, phase=phase[:60]),
        )
        now = timezone.now()
        _write(
            server.pk,
            claim,
            status=Status.READY,
            address=address,
            phase="",
            ready_at=now,
            last_used_at=now,
            reason="",
            error="",
        )
    except (StartFailed, ClaimLost, EngineError, EngineUnavailable):
        engine.remove(running.container_id)
        raise
    log.info("server.ready", extra={"server": server.pk, "address": address})


def _refuse_without_network_rules(server_id: int) -> None:
    """Raises StartFailed while nobody knows that the firewall holds what a server may reach."""
    problem = engine_room.network_problem()
    if problem:
        log.error("server.network_not_held: %s", problem, extra={"server": server_id})
        sentence = "The host's firewall does not hold what model servers may reach, so none starts."
        raise StartFailed("network_not_held", sentence)


def _version(server: ModelServer, registry: ModelRegistry) -> ModelVersion:
    try:
        return registry.version(server.model_name, server.version)
    except APIException as error:
        raise unreachable(error) from error


def _still_there(server: ModelServer, engine: Engine) -> bool:
    """A caller may have missed a server that runs: then nothing needs to be done."""
    if not (server.container_id and server.address):
        return False
    state = engine.state(server.container_id)
    running = state is not None and state.running
    return running and containers.ask_ready(server.address, server.token) is None


def _make_room(server_id: int) -> None:
    """Stops the least recently used servers until this one fits. Raises StartFailed."""
    others = ModelServer.objects.exclude(pk=server_id)
    held = others.filter(status__in=[Status.STARTING, Status.READY, Status.STOPPING]).exclude(
        container_id=""
    )
    too_many = held.count() + 1 - settings.MAX_MODEL_SERVERS
    if too_many <= 0:
        return
    idle = others.filter(status=Status.READY).order_by(F("last_used_at").asc(nulls_first=True))
    chosen = list(idle.values_list("pk", flat=True)[:too_many])
    if len(chosen) < too_many:
        sentence = f"All {settings.MAX_MODEL_SERVERS} model servers are busy starting."
        raise StartFailed("no_room", sentence)
    for other in chosen:
        log.info("server.evicted", extra={"server": other, "for": server_id})
        stop(other)
        stop_server(other)


def _fail(server_id: int, claim: uuid.UUID, failure: StartFailed) -> None:
    log.warning("server.failed", extra={"server": server_id, "reason": failure.reason})
    _write(
        server_id,
        claim,
        status=Status.FAILED,
        phase="",
        reason=failure.reason,
        error=failure.sentence,
        container_id="",
        address="",
        token="",
    )


# -- for the supervisor -------------------------------------------------------------------------
def dispatch() -> None:
    """Queues a task for every server that is to start or stop and that nobody was asked for.

    Again after a while without a claim: the task was lost, or its worker was killed. The web
    process cannot do this itself: it has no key to the queue. A start waits for its model, so that
    only some are under way at once, the longest wanted first: jobs need workers too.
    """
    _free_claims_of_the_dead()
    now = timezone.now()
    late = Q(queued_at__lt=now - timedelta(seconds=TASK_PATIENCE_SECONDS))
    free = Q(claim_expires_at=None) | Q(claim_expires_at__lt=now)
    due = Q(queued_at=None) | (late & free)
    starting = ModelServer.objects.filter(status=Status.STARTING)
    under_way = starting.exclude(due).count()
    wanted = starting.filter(due).order_by("changed_at")
    for server in wanted[: max(0, settings.LONG_TASKS - under_way)]:
        _queue(server, START_TASK)
    for server in ModelServer.objects.filter(due, status=Status.STOPPING):
        _queue(server, STOP_TASK)


def ask_again() -> None:
    """The queue has lost its tasks; a start that somebody has claimed has its own."""
    free = Q(claim_expires_at=None) | Q(claim_expires_at__lt=timezone.now())
    open_ones = ModelServer.objects.filter(status__in=[Status.STARTING, Status.STOPPING])
    open_ones.filter(free).update(queued_at=None)


def _free_claims_of_the_dead() -> None:
    """The next worker need not wait until the claim of a killed one runs out; its token is void."""
    starting = ModelServer.objects.filter(status=Status.STARTING)
    held = starting.filter(claim_expires_at__gte=timezone.now())
    for server_id, claim, owner in held.values_list("pk", "claim", "claim_owner"):
        if not holders.is_gone(owner):
            continue
        freed = starting.filter(pk=server_id, claim=claim).update(
            claim=uuid.uuid4(), claim_owner="", claim_expires_at=None, queued_at=None
        )
        if freed:
            log.warning("server.starter_died", extra={"server": server_id, "owner": owner})


def _queue(server: ModelServer, task: str) -> None:
    queued = ModelServer.objects.filter(pk=server.pk, status=server.status)
    queued.update(queued_at=timezone.now())
    async_task(task, server.pk, save=False)


def reconcile() -> None:
    """Rows and containers agree again, whoever was killed. Raises EngineError, EngineUnavailable.

    Containers are listed before the rows are read: a row that has become live in between keeps its
    container.
    """
    engine = engine_room.engine()
    found = engine.find({"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": "server"})
    _forget_the_dead(found)
    _remove_orphans(engine, found)


def _forget_the_dead(found: list[ContainerState]) -> None:
    """Ready rows without a running container."""
    running = {state.id for state in found if state.running}
    listed_at = timezone.now() - timedelta(seconds=CLAIM_RENEW_SECONDS)
    ready = ModelServer.objects.filter(status=Status.READY)
    for server in ready.exclude(container_id__in=running).exclude(ready_at__gt=listed_at):
        changed = ModelServer.objects.filter(
            pk=server.pk, status=Status.READY, container_id=server.container_id
        ).update(
            status=Status.STOPPED,
            reason="container_gone",
            address="",
            token="",
            error="The container ended; the next request starts it again.",
            **_now(),
        )
        if changed:
            log.warning("server.container_gone", extra={"server": server.pk})


def _remove_orphans(engine: Engine, found: list[ContainerState]) -> None:
    live = [Status.STARTING, Status.READY, Status.STOPPING]
    rows = {str(row.pk): row for row in ModelServer.objects.filter(status__in=live)}
    for state in found:
        row = rows.get(state.labels.get("mlops.server", ""))
        replaced = row is not None and row.status == Status.READY and row.container_id != state.id
        if row is None or replaced:
            log.warning("server.orphan_removed", extra={"container": state.name})
            engine.remove(state.id)


def remove_cut_off_downloads() -> None:
    """What killed workers left of downloads; one that runs right now is left alone."""
    for name in model_files.remove_cut_off():
        log.warning("model.download_cut_off", extra={"folder": name})


def remove_unowned_models() -> None:
    """Files that no server's row names, since their version was made anew from other ones."""
    for name in model_files.remove_unowned(_owned_folders):
        log.warning("model.files_unowned", extra={"folder": name})


def _owned_folders() -> set[str]:
    rows = ModelServer.objects.values_list("model_name", "source", "version")
    return {model_files.folder_name(*row) for row in rows}


def end_all() -> int:
    """The platform stops, and nobody works on servers any more: every row ends as stopped.

    Returns how many. Their containers are removed by whoever stops the platform. The next request
    starts a server again.
    """
    live = [Status.STARTING, Status.READY, Status.STOPPING]
    return ModelServer.objects.filter(status__in=live).update(
        status=Status.STOPPED,
        phase="",
        claim=uuid.uuid4(),
        claim_expires_at=None,
        queued_at=None,
        container_id="",
        address="",
        token="",
        **_now(),
    )


# -- claims and rows ----------------------------------------------------------------------------
def _claim(server_id: int) -> uuid.UUID | None:
    """None when the server is not to be started, or another worker does so."""
    now = timezone.now()
    free = Q(claim_expires_at=None) | Q(claim_expires_at__lt=now)
    claim = uuid.uuid4()
    changed = ModelServer.objects.filter(free, pk=server_id, status=Status.STARTING).update(
        claim=claim,
        claim_owner=holders.me(),
        claim_expires_at=now + timedelta(seconds=CLAIM_SECONDS),
        changed_at=now,
    )
    return claim if changed else None


@contextlib.contextmanager
def _renewed(server_id: int, claim: uuid.UUID) -> Iterator[None]:
    """Keeps the claim while the work goes on; a build may be silent for minutes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(CLAIM_RENEW_SECONDS):
            _renew(server_id, claim)
        connection.close()

    keeper = threading.Thread(target=renew, name=f"claim-{server_id}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        ModelServer.objects.filter(pk=server_id, claim=claim).update(claim_expires_at=None)


def _renew(server_id: int, claim: uuid.UUID) -> None:
    """A database that is locked for a while must not end the claim of a start of minutes."""
    expires = timezone.now() + timedelta(seconds=CLAIM_SECONDS)
    try:
        ModelServer.objects.filter(pk=server_id, claim=claim).update(claim_expires_at=expires)
    except DatabaseError:
        log.warning("server.claim_not_renewed", extra={"server": server_id})
        connection.close()


def _write(server_id: int, claim: uuid.UUID, **fields: Any) -> None:
    """Raises ClaimLost when the server is no longer ours to start."""
    changed = ModelServer.objects.filter(pk=server_id, claim=claim, status=Status.STARTING).update(
        **_now(), **fields
    )
    if not changed:
        raise ClaimLost


def _restart(server: ModelServer, source: str) -> bool:
    """Whether the server was put back to starting by us."""
    other_files = bool(source and server.source) and server.source != source
    outdated = server.status == Status.READY and other_files
    ended = server.status in (Status.STOPPED, Status.FAILED)
    if not (outdated or (ended and (other_files or _may_retry(server)))):
        return False
    now = timezone.now()
    return bool(
        ModelServer.objects.filter(pk=server.pk, status=server.status).update(
            status=Status.STARTING,
            claim_expires_at=None,
            queued_at=None,
            last_used_at=now,
            container_id="",
            address="",
            token="",
            reason="",
            error="",
            changed_at=now,
        )
    )


def _may_retry(server: ModelServer) -> bool:
    if server.status == Status.STOPPED:
        return True
    passing = server.reason in PASSING_REASONS
    seconds = RETRY_PASSING_SECONDS if passing else RETRY_PERMANENT_SECONDS
    return server.changed_at < timezone.now() - timedelta(seconds=seconds)


def _end_container(name: str) -> None:
    engine = engine_room.engine()
    if engine.state(name) is not None:
        engine.stop(name, grace_seconds=STOP_GRACE_SECONDS)
        engine.remove(name)


def _now() -> dict[str, Any]:
    return {"changed_at": timezone.now()}


def _view(server: ModelServer) -> ServerView:
    return ServerView(
        id=server.pk,
        status=server.status,
        address=server.address,
        token=server.token,
        source=server.source,
        reason=server.reason,
        error=server.error,
    )
