"""The container of a batch: started, looked at, and judged by how it ended; no row is touched here.

It has no network, so that nothing of it waits for the firewall.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from inference.batch import files
from inference.batch.record import Progress, progress_in
from inference.batch.states import Format, Reason
from inference.containers import ending_from, tail_of, threads_of
from inference.failures import StartFailed
from inference.models import BatchPrediction
from inference.states import Reason as ServerReason
from sandbox.container import Limits, SandboxSpec
from sandbox.engine import ContainerState, Engine, EngineError
from sandbox.environments import Environment, EnvironmentStore
from sandbox.image.served_ends import Exit
from sandbox.spec import batch_spec

SCRATCH_MB = 128
PROGRESS_LINES = 20
ERROR_LINES = 100
SIGNALLED = frozenset({130, 137, 143, 255})
KIND_LABELS = {"mlops.kind": "batch"}
BATCH_LABEL = "mlops.batch"


@dataclass(frozen=True)
class Room:
    """What a batch's container may have."""

    memory_mb: int
    cpus: float


def labels() -> dict[str, str]:
    """What all containers of batches carry."""
    return {"mlops.installation": settings.INSTALLATION_ID, **KIND_LABELS}


def spec_of(
    batch: BatchPrediction,
    *,
    environment: Environment,
    platform_folder: Path,
    model_folder: Path,
    room: Room,
) -> SandboxSpec:
    limits = Limits(
        memory_mb=room.memory_mb,
        cpus=room.cpus,
        pids=settings.SERVER_PIDS,
        scratch_mb=SCRATCH_MB,
    )
    return batch_spec(
        name=f"mlops-{settings.INSTALLATION_ID}-batch-{batch.pk}",
        image=environment.image or settings.RUNNER_IMAGE,
        arguments=_arguments(batch),
        model_folder=model_folder,
        input_folder=files.input_folder(batch.pk),
        environment_folder=environment.path,
        platform_folder=platform_folder,
        variables=threads_of(room.cpus),
        limits=limits,
        runtime=settings.SANDBOX_RUNTIME,
        output_bytes=settings.BATCH_OUTPUT_MAX_BYTES,
        labels={"mlops.installation": settings.INSTALLATION_ID, BATCH_LABEL: str(batch.pk)},
    )


def start(
    batch: BatchPrediction,
    *,
    engine: Engine,
    store: EnvironmentStore,
    environment: Environment,
    model_folder: Path,
    room: Room,
) -> str:
    """Makes and starts it; one that a killed worker left under its name is removed.

    Raises EngineError, EngineUnavailable, SandboxMismatch, EnvironmentFailed.
    """
    spec = spec_of(
        batch,
        environment=environment,
        platform_folder=store.platform_folder(),
        model_folder=model_folder,
        room=room,
    )
    engine.remove(spec.name)
    container_id = engine.create(spec)
    try:
        engine.start(container_id)
    except EngineError:
        engine.remove(container_id)
        raise
    return container_id


def progress_of(engine: Engine, container_id: str) -> Progress | None:
    """What it last said; None when that was nothing. Raises EngineError, EngineUnavailable."""
    return progress_in(engine.last_printed(container_id, lines=PROGRESS_LINES))


def last_words(engine: Engine, state: ContainerState) -> bytes:
    return engine.last_errors(state.id, lines=ERROR_LINES)


def failure_of(
    state: ContainerState | None, errors: bytes, *, memory_mb: int
) -> StartFailed | None:
    """Why it ended without an answer; None when it has one, be it a refusal."""
    if state is None:
        return StartFailed(ServerReason.CONTAINER_GONE, "The container was removed.")
    tail = tail_of(errors)
    if state.oom_killed:
        told = f"The model and a part of the file need more memory than {memory_mb} MB."
        return StartFailed(Reason.OUT_OF_MEMORY, told, log_tail=tail)
    if state.exit_code in (Exit.DONE, Exit.REFUSED):
        return None
    if state.exit_code in (Exit.LOAD_FAILED, Exit.OTHER_VERSIONS):
        return ending_from(state, errors, memory_mb=memory_mb, loading=True)
    if state.exit_code in SIGNALLED or state.exit_code is None:
        # Its own process may have done so to itself: then it does so again, and is given up.
        return StartFailed(Reason.INTERRUPTED, "The container was ended from outside.")
    told = f"The model's process ended with exit code {state.exit_code}."
    return StartFailed(Reason.CRASHED, told, log_tail=tail)


def _arguments(batch: BatchPrediction) -> Sequence[str]:
    form = Format(batch.input_format)
    return (
        "--file",
        f"/data/{files.INPUT}.{form.value}",
        "--output-bytes",
        str(settings.BATCH_OUTPUT_MAX_BYTES),
        *(["--probabilities"] if batch.return_probabilities else []),
        *(["--inputs"] if batch.include_inputs else []),
    )
