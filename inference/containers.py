"""The steps that turn a model version into a container that answers; no row is touched here.

Every step raises StartFailed with a sentence that a user may read.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from rest_framework.exceptions import APIException
from urllib3.exceptions import HTTPError

from inference.failures import StartFailed, unreachable
from inference.states import MEANINGS, Reason
from registry.mlflow_client import ModelRegistry, ModelVersion
from sandbox.container import Limits
from sandbox.engine import ContainerState, Engine
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentStore
from sandbox.image.served_ends import FAILURE_PREFIX, Exit
from sandbox.spec import SERVER_PORT, server_spec

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "MLOPS_SERVER_TOKEN"  # noqa: S105
LANE_VARIABLE = "MLOPS_FAST_LANE"
SCRATCH_MB = 128
POLL_SECONDS = 0.05
READY_CALL_SECONDS = 5.0
READY_MAX_BYTES = 1024 * 1024
SENTENCE_CHARACTERS = 300
LOG_TAIL_LINES = 20
LOG_TAIL_CHARACTERS = 4000
# As served models say it, and as Python does.
MISSING_MODULE = ("ModuleNotFoundError", "No module named")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


_lock_sources: list[Callable[[str], str]] = []


@dataclass(frozen=True)
class Running:
    """A container that was started, and what it answers to."""

    container_id: str
    token: str


@dataclass(frozen=True)
class Asked:
    """What a server says of itself: what it is doing, and of its model once that is loaded."""

    phase: str
    description: dict[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return self.description is not None


@dataclass(frozen=True)
class Ready:
    """Where a server answers, and what it said of its model."""

    address: str
    description: dict[str, Any]


def environment_of(
    version: ModelVersion, *, stores: Sequence[EnvironmentStore], registry: ModelRegistry
) -> Environment:
    """The one that the job used, built again from its lock where it is lost; for a model that was
    registered by hand, what its run names. There is one store for each Python, the default first.
    """
    key = version.tags.get("mlops.environment", "")
    try:
        known = _known_environment(key, stores) if key else None
        if known is not None:
            return known
        # Its own store has no base like the one it was made on: the same Python will do.
        store, lock = _store_for(version, stores), lock_of(key) if key else ""
        if lock:
            return store.build_alike(lock, output=_log_line)
        return store.build(_requirements(version, registry), output=_log_line)
    except EnvironmentFailed as error:
        raise StartFailed(error.reason, f"{error.detail} {error.hint}") from error


def _known_environment(key: str, stores: Sequence[EnvironmentStore]) -> Environment | None:
    found = next((one for one in (store.get(key) for store in stores) if one), None)
    if found is not None:
        return found
    lock = lock_of(key)
    restored = (store.restore(key, output=_log_line, lock=lock) for store in stores)
    return next((one for one in restored if one), None)


def _store_for(version: ModelVersion, stores: Sequence[EnvironmentStore]) -> EnvironmentStore:
    """Raises EnvironmentFailed where the Python of the model's job is not offered any more."""
    python = version.tags.get("mlops.python_version", "")
    if not python:
        return stores[0]
    if python not in settings.PYTHON_VERSIONS:
        raise EnvironmentFailed(
            reason="python_not_offered",
            detail=f"The model was made with Python {python}, which is not offered any more.",
            hint="Ask the operator for a base image with it, or train the model again.",
        )
    return stores[settings.PYTHON_VERSIONS.index(python)]


def find_locks_with(lock_of: Callable[[str], str]) -> None:
    """Another room knows the locks of environments that this host's store has lost."""
    _lock_sources.append(lock_of)


def lock_of(key: str) -> str:
    """The lock of an environment; empty where nobody knows it."""
    return next((lock for source in _lock_sources if (lock := source(key))), "")


def _requirements(version: ModelVersion, registry: ModelRegistry) -> list[str]:
    tagged = version.tags.get("mlops.requirements")
    if tagged:
        return [str(line) for line in json.loads(tagged)]
    try:
        return registry.requirements_of(version)
    except APIException as error:
        raise unreachable(error) from error


def _log_line(line: bytes) -> None:
    log.info("server.build_output", extra={"line": line.decode(errors="replace").rstrip()})


def run(
    *,
    server_id: int,
    engine: Engine,
    store: EnvironmentStore,
    environment: Environment,
    folder: Path,
    memory_mb: int,
    cpus: float,
) -> Running:
    """Makes and starts the container; one that a killed worker left under its name is removed."""
    token = secrets.token_urlsafe(32)
    name = container_name(server_id)
    engine.remove(name)
    spec = server_spec(
        name=name,
        image=environment.image or settings.RUNNER_IMAGE,
        model_folder=folder,
        environment_folder=environment.path,
        platform_folder=store.platform_folder(),
        variables={**threads_of(cpus), TOKEN_VARIABLE: token, LANE_VARIABLE: settings.FAST_LANE},
        network=settings.SERVERS_NETWORK,
        limits=Limits(
            memory_mb=memory_mb,
            cpus=cpus,
            pids=settings.SERVER_PIDS,
            scratch_mb=SCRATCH_MB,
        ),
        runtime=settings.SANDBOX_RUNTIME,
        labels={
            "mlops.installation": settings.INSTALLATION_ID,
            "mlops.server": str(server_id),
        },
    )
    container_id = engine.create(spec)
    engine.start(container_id)
    return Running(container_id=container_id, token=token)


def container_name(server_id: int) -> str:
    return f"mlops-{settings.INSTALLATION_ID}-server-{server_id}"


def wait_until_ready(
    running: Running,
    *,
    engine: Engine,
    seconds: float,
    memory_mb: int,
    report: Callable[[str], None],
) -> Ready:
    """Where it answers, once the model is loaded. Raises StartFailed."""
    deadline = time.monotonic() + seconds
    phase = "starting"
    while time.monotonic() < deadline:
        state = engine.state(running.container_id)
        if state is None or not state.running:
            raise ending(state, engine, memory_mb=memory_mb, loading=True)
        if state.ip_address:
            address = f"{state.ip_address}:{SERVER_PORT}"
            asked = ask_ready(address, running.token)
            if asked.description is not None:
                return Ready(address, asked.description)
            if asked.phase and asked.phase != phase:
                phase = asked.phase
                report(phase)
        time.sleep(POLL_SECONDS)
    raise StartFailed(
        Reason.START_TIMEOUT,
        f"The model was not loaded within {seconds:.0f} s (last seen: {phase}).",
        log_tail=_tail(_lines(engine.read_logs(running.container_id))),
    )


def threads_of(cpus: float) -> dict[str, str]:
    """As many threads as whole CPUs: one more would wait for its turn, and the others for it."""
    return dict.fromkeys(THREADS, str(max(1, int(cpus))))


def ask_ready(address: str, token: str) -> Asked:
    """A server that does not answer has no phase. What it says is a stranger's: it is bounded."""
    with requests.Session() as session:
        # A proxy of the host has no way to a container.
        session.trust_env = False
        try:
            answer = session.get(
                f"http://{address}/ready",
                headers={"Authorization": f"Bearer {token}"},
                timeout=READY_CALL_SECONDS,
                stream=True,
            )
            content = answer.raw.read(READY_MAX_BYTES, decode_content=False)
            document = json.loads(content)
        except (requests.RequestException, OSError, HTTPError, ValueError, RecursionError):
            return Asked(phase="")
    if not isinstance(document, dict):
        return Asked(phase="")
    if answer.status_code == 200:
        return Asked(phase="", description=document)
    return Asked(phase=str(document.get("phase", "")))


def ending(
    state: ContainerState | None, engine: Engine, *, memory_mb: int, loading: bool = False
) -> StartFailed:
    """Why a server ended on its own, from what the engine and its last lines say."""
    output = b"" if state is None else engine.read_logs(state.id)
    return ending_from(state, output, memory_mb=memory_mb, loading=loading)


def ending_from(
    state: ContainerState | None, output: bytes, *, memory_mb: int, loading: bool
) -> StartFailed:
    """As `ending`, for who has the last lines already."""
    if state is None:
        return StartFailed(Reason.CONTAINER_GONE, MEANINGS[Reason.CONTAINER_GONE].sentence)
    lines = _lines(output)
    tail = _tail(lines)
    if state.oom_killed:
        sentence = f"The model needs more memory than a server may have ({memory_mb} MB)."
        return StartFailed(Reason.OUT_OF_MEMORY, sentence, log_tail=tail)
    why = _last_words(lines) or f"exit code {state.exit_code}"
    if state.exit_code == Exit.HUNG:
        return StartFailed(Reason.HANG, MEANINGS[Reason.HANG].sentence, log_tail=tail)
    if not loading:
        sentence = f"The model's process ended while it served: {why}"
        return StartFailed(Reason.CRASHED, sentence, log_tail=tail)
    missing = any(word in why for word in MISSING_MODULE)
    elsewhere = missing or state.exit_code == Exit.OTHER_VERSIONS
    reason = Reason.WRONG_ENVIRONMENT if elsewhere else Reason.MODEL_NOT_LOADABLE
    return StartFailed(reason, f"The model cannot be loaded: {why}", log_tail=tail)


def tail_of(output: bytes) -> str:
    """The last lines of what a container printed, as they are kept in a row."""
    return _tail(_lines(output))


def _lines(output: bytes) -> list[str]:
    return [line for line in output.decode(errors="replace").split("\n") if line.strip()]


def _last_words(lines: list[str]) -> str:
    told = [line.removeprefix(FAILURE_PREFIX) for line in lines if line.startswith(FAILURE_PREFIX)]
    last = [line.strip() for line in lines[-1:]]
    return (told[-1:] or last or [""])[0][:SENTENCE_CHARACTERS]


def _tail(lines: list[str]) -> str:
    # PostgreSQL keeps no NUL in a text.
    return "\n".join(lines[-LOG_TAIL_LINES:])[-LOG_TAIL_CHARACTERS:].replace("\0", "")
