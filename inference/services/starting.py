"""From a row that is to start to a container that answers, and the end of one; for workers.

Every write is guarded by the claim (`rows`). No call to Docker or MLflow is made inside a
transaction.
"""

import contextlib
import logging
import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone
from rest_framework.exceptions import APIException

from inference import containers, engine_room, model_files
from inference.containers import Ready, Running
from inference.failures import StartFailed, as_start_failures, ours, unreachable
from inference.models import ModelServer
from inference.services import pool, rows
from inference.services.claims import ClaimLost
from inference.services.kept import kept_versions
from inference.services.policy import Policy, policies, policy_of
from inference.services.rows import NOWHERE, Status, now, write
from inference.states import CRASHES_MOST, Reason, backoff_seconds
from registry.doorbell import GATEWAY_BELL
from registry.mlflow_client import ModelRegistry, ModelVersion, model_registry
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.environments import Environment

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 5
# A server that served at least this long ended for a reason of its own, not in a row of ends.
STEADY_SECONDS = 120


def start_server(server_id: int) -> None:
    """From a row that is starting to a server that answers, or to the reason why it does not."""
    claim = rows.claim(server_id)
    if claim is None:
        return
    with contextlib.suppress(ClaimLost), rows.renewed(server_id, claim):
        # What stays if an error comes that nobody foresaw: it goes on to the log, the row ends.
        failure: StartFailed | None = ours(Reason.UNEXPECTED)
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
        status=Status.STOPPED, phase="", **NOWHERE, **now()
    )
    if changed:
        log.info("server.stopped", extra={"server": server_id})


def note_crash(server: ModelServer, ending: StartFailed) -> int:
    """Counts an end that nobody asked for; how often in a row that makes it."""
    steady = server.ready_at is not None and (
        timezone.now() - server.ready_at > timedelta(seconds=STEADY_SECONDS)
    )
    crashes = 1 if steady else server.crashes + 1
    pause = timedelta(seconds=backoff_seconds(crashes))
    ModelServer.objects.filter(pk=server.pk).update(
        crashes=crashes, not_before=timezone.now() + pause, log_tail=ending.log_tail
    )
    log.warning("server.crashed server=%s reason=%s crashes=%s", server.pk, ending.reason, crashes)
    return crashes


def _start(server_id: int, claim: uuid.UUID) -> None:
    """Raises StartFailed and ClaimLost; every error of the other rooms becomes a StartFailed."""
    server = ModelServer.objects.get(pk=server_id)
    with as_start_failures(f"server {server_id}"):
        engine = engine_room.engine()
        if _still_there(server, engine):
            write(server_id, claim, status=Status.READY, phase="")
            return
        _give_up_on_a_crash_loop(server, engine)
        _start_anew(server, claim, engine=engine, registry=model_registry())


def _give_up_on_a_crash_loop(server: ModelServer, engine: Engine) -> None:
    """A server that was ready and ended is started again, but not for ever. Raises StartFailed."""
    if not server.container_id:
        return
    ending = containers.ending(
        engine.state(server.container_id), engine, memory_mb=server.memory_mb
    )
    crashes = note_crash(server, ending)
    if crashes >= CRASHES_MOST:
        sentence = f"It ended {crashes} times in a row; the last time: {ending.sentence}"
        raise StartFailed(Reason.CRASH_LOOP, sentence, log_tail=ending.log_tail)
    if backoff_seconds(crashes):
        raise StartFailed(Reason.CRASHED, ending.sentence, log_tail=ending.log_tail)


def _start_anew(
    server: ModelServer, claim: uuid.UUID, *, engine: Engine, registry: ModelRegistry
) -> None:
    write(server.pk, claim, phase="preparing")
    version = _version(server, registry)
    # From here on the files of this source are this server's: nobody clears them away.
    write(server.pk, claim, source=version.source)
    # Before the environment is looked for: a download takes longer than one that is found is held.
    folder = model_files.model_folder(version, registry=registry)
    policy = policy_of(server.model_name)
    _make_room(server.pk, memory_mb=policy.memory_mb)
    _refuse_without_network_rules(server.pk)
    stores = engine_room.every_store()
    environment = containers.environment_of(version, stores=stores, registry=registry)
    running = _launched(server.pk, claim, policy, environment, folder=folder, engine=engine)
    try:
        ready = _awaited(server.pk, claim, policy, running, engine=engine)
    except (StartFailed, ClaimLost, EngineError, EngineUnavailable):
        engine.remove(running.container_id)
        raise
    GATEWAY_BELL.ring()
    log.info("server.ready", extra={"server": server.pk, "address": ready.address})


def _launched(
    server_id: int,
    claim: uuid.UUID,
    policy: Policy,
    environment: Environment,
    *,
    folder: Path,
    engine: Engine,
) -> Running:
    """Its container, in an environment that is in use by it before it is there."""
    # From here on nobody deletes the environment. A container of this name is removed next: it must
    # not be one that somebody else has started.
    write(
        server_id,
        claim,
        phase="starting",
        memory_mb=policy.memory_mb,
        cpus=policy.cpus,
        environment_key=environment.key,
    )
    return containers.run(
        server_id=server_id,
        engine=engine,
        store=engine_room.environments(environment.image),
        environment=environment,
        folder=folder,
        memory_mb=policy.memory_mb,
        cpus=policy.cpus,
    )


def _awaited(
    server_id: int, claim: uuid.UUID, policy: Policy, running: Running, *, engine: Engine
) -> Ready:
    """The row says that it is ready when this returns."""
    write(server_id, claim, container_id=running.container_id, token=running.token)
    ready = containers.wait_until_ready(
        running,
        engine=engine,
        seconds=settings.SERVER_START_SECONDS,
        memory_mb=policy.memory_mb,
        report=lambda phase: write(server_id, claim, phase=phase[:60]),
    )
    moment = timezone.now()
    write(
        server_id,
        claim,
        status=Status.READY,
        address=ready.address,
        description=ready.description,
        phase="",
        ready_at=moment,
        last_used_at=moment,
        reason="",
        error="",
    )
    return ready


def _refuse_without_network_rules(server_id: int) -> None:
    """Raises StartFailed while nobody knows that the firewall holds what a server may reach."""
    problem = engine_room.network_problem()
    if problem:
        log.error("server.network_not_held: %s", problem, extra={"server": server_id})
        raise ours(Reason.NETWORK_NOT_HELD)


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
    return running and containers.ask_ready(server.address, server.token).ready


def _make_room(server_id: int, *, memory_mb: int) -> None:
    """Stops the least recently used servers until this one fits, by number and by memory.

    Those that are pinned, or that their model's policy wants to be there, stay. Raises StartFailed.
    """
    others = ModelServer.objects.exclude(pk=server_id)
    held = others.filter(status__in=[Status.STARTING, Status.READY, Status.STOPPING]).exclude(
        container_id=""
    )
    too_many = held.count() + 1 - settings.MAX_MODEL_SERVERS
    used = held.aggregate(sum=Sum("memory_mb"))["sum"] or 0
    too_much = used + memory_mb - settings.SERVERS_MEMORY_MB
    if too_many <= 0 and too_much <= 0:
        return
    idle = others.filter(status=Status.READY).order_by(F("last_used_at").asc(nulls_first=True))
    chosen = []
    for server in _may_go(idle):
        if too_many <= 0 and too_much <= 0:
            break
        chosen.append(server.pk)
        too_many, too_much = too_many - 1, too_much - server.memory_mb
    if too_many > 0 or too_much > 0:
        raise StartFailed(Reason.NO_ROOM, _no_room_sentence(memory_mb))
    for other in chosen:
        log.info("server.evicted", extra={"server": other, "for": server_id})
        pool.stop(other, reason=Reason.EVICTED)
        stop_server(other)


def _may_go(servers: Iterable[ModelServer]) -> Iterable[ModelServer]:
    known = policies()
    kept = kept_versions(known)
    for server in servers:
        policy = known.get(server.model_name)
        is_kept = server.version in kept.get(server.model_name, ())
        if policy is None or not (policy.pinned or is_kept):
            yield server


def _no_room_sentence(memory_mb: int) -> str:
    return (
        f"There is no room for a server of {memory_mb} MB: {settings.MAX_MODEL_SERVERS} servers "
        f"with {settings.SERVERS_MEMORY_MB} MB together may run, and none of those that run may go."
    )


def _fail(server_id: int, claim: uuid.UUID, failure: StartFailed) -> None:
    log.warning("server.failed server=%s reason=%s", server_id, failure.reason)
    write(
        server_id,
        claim,
        status=Status.FAILED,
        phase="",
        reason=failure.reason,
        error=failure.sentence,
        log_tail=failure.log_tail,
        **NOWHERE,
    )
    GATEWAY_BELL.ring()


def _end_container(name: str) -> None:
    engine = engine_room.engine()
    if engine.state(name) is not None:
        engine.stop(name, grace_seconds=STOP_GRACE_SECONDS)
        engine.remove(name)
