"""The steps that turn a model version into a container that answers; no row is touched here.

Every step raises StartFailed with a sentence that a user may read.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests
from django.conf import settings
from rest_framework.exceptions import APIException

from inference.failures import StartFailed, unreachable
from registry.mlflow_client import ModelRegistry, ModelVersion
from sandbox.engine import ContainerState, Engine
from sandbox.environments import Environment, EnvironmentFailed, EnvironmentStore
from sandbox.spec import SERVER_PORT, Limits, server_spec

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "MLOPS_SERVER_TOKEN"  # noqa: S105
LANE_VARIABLE = "MLOPS_FAST_LANE"
FAILURE_PREFIX = "model_server: "
SCRATCH_MB = 128
POLL_SECONDS = 0.05
READY_CALL_SECONDS = 5.0
LOG_TAIL_CHARACTERS = 300
# One thread: the rows of a request are few, and a pool of threads costs more than they take.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


_lock_sources: list[Callable[[str], str]] = []


@dataclass(frozen=True)
class Running:
    """A container that was started, and what it answers to."""

    container_id: str
    token: str


def environment_of(
    version: ModelVersion, *, store: EnvironmentStore, registry: ModelRegistry
) -> Environment:
    """The one that the job used, built again from its lock where it is lost; for a model that was
    registered by hand, what its run names."""
    known = store.get(version.tags.get("mlops.environment", ""))
    if version.tags.get("mlops.environment") and known is not None:
        return known
    key = version.tags.get("mlops.environment", "")
    try:
        restored = store.restore(key, output=_log_line, lock=_lock_of(key)) if key else None
        return restored or store.build(_requirements(version, registry), output=_log_line)
    except EnvironmentFailed as error:
        raise StartFailed(error.reason, f"{error.detail} {error.hint}") from error


def find_locks_with(lock_of: Callable[[str], str]) -> None:
    """Another room knows the locks of environments that this host's store has lost."""
    _lock_sources.append(lock_of)


def _lock_of(key: str) -> str:
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
) -> Running:
    """Makes and starts the container; one that a killed worker left under its name is removed."""
    token = secrets.token_urlsafe(32)
    name = container_name(server_id)
    engine.remove(name)
    spec = server_spec(
        name=name,
        image=settings.RUNNER_IMAGE,
        model_folder=folder,
        environment_folder=environment.path,
        platform_folder=store.platform_folder(),
        variables={**THREADS, TOKEN_VARIABLE: token, LANE_VARIABLE: settings.FAST_LANE},
        network=settings.SERVERS_NETWORK,
        limits=Limits(
            memory_mb=settings.SERVER_MEMORY_MB,
            cpus=settings.SERVER_CPUS,
            pids=settings.SERVER_PIDS,
            scratch_mb=SCRATCH_MB,
        ),
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
    running: Running, *, engine: Engine, seconds: float, report: Callable[[str], None]
) -> str:
    """The address, once the model is loaded. Raises StartFailed."""
    deadline = time.monotonic() + seconds
    phase = "starting"
    while time.monotonic() < deadline:
        state = engine.state(running.container_id)
        if state is None or not state.running:
            raise _ended(state, engine)
        if state.ip_address:
            address = f"{state.ip_address}:{SERVER_PORT}"
            answer = ask_ready(address, running.token)
            if answer is None:
                return address
            if answer and answer != phase:
                phase = answer
                report(phase)
        time.sleep(POLL_SECONDS)
    raise StartFailed(
        "start_timeout", f"The model was not loaded within {seconds:.0f} s (last seen: {phase})."
    )


def ask_ready(address: str, token: str) -> str | None:
    """None when the server is ready; else what it is doing, empty when it does not answer."""
    with requests.Session() as session:
        # A proxy of the host has no way to a container.
        session.trust_env = False
        try:
            answer = session.get(
                f"http://{address}/ready",
                headers={"Authorization": f"Bearer {token}"},
                timeout=READY_CALL_SECONDS,
            )
            return None if answer.status_code == 200 else str(answer.json().get("phase", ""))
        except (requests.RequestException, ValueError):
            return ""


def _ended(state: ContainerState | None, engine: Engine) -> StartFailed:
    if state is None:
        return StartFailed("container_gone", "The container was removed.")
    if state.oom_killed:
        return StartFailed(
            "out_of_memory",
            f"The model needs more memory than a server may have ({settings.SERVER_MEMORY_MB} MB).",
        )
    lines = engine.read_logs(state.id).decode(errors="replace").split("\n")
    told = [line.removeprefix(FAILURE_PREFIX) for line in lines if line.startswith(FAILURE_PREFIX)]
    last = [line.strip() for line in lines if line.strip()][-1:]
    why = (told[-1:] or last or [f"exit code {state.exit_code}"])[0][:LOG_TAIL_CHARACTERS]
    return StartFailed("model_not_loadable", f"The model cannot be loaded: {why}")
