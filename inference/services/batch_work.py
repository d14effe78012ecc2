"""What a worker does for a batch: prepares and starts its container, and collects what came of it.

Neither waits for the model: between both the supervisor looks (`batch_watching.py`). Every write is
guarded by the claim (`batch_rows`); no call to Docker or MLflow is made inside a transaction.
"""

import contextlib
import logging
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from rest_framework.exceptions import APIException

from inference import engine_room, model_files
from inference.batch import containers, files
from inference.batch.record import Done, RecordBroken, Refusal, parts_of
from inference.batch.states import Reason, Status, may_try_again, meaning_of, retry_seconds
from inference.batch.tables import Shape, TableTooLarge, write_table
from inference.containers import environment_of, tail_of
from inference.failures import StartFailed, as_start_failures, ours, unreachable
from inference.models import BatchPrediction
from inference.services.batch_rows import (
    NOWHERE,
    claim_to_finish,
    claim_to_start,
    renewed,
    write,
)
from inference.services.claims import UNCLAIMED, ClaimLost
from inference.services.policy import policy_of
from inference.states import Reason as ServerReason
from registry.doorbell import SUPERVISOR_BELL
from registry.mlflow_client import ModelVersion, model_registry
from sandbox.engine import ContainerState, Engine

log = logging.getLogger(__name__)


def start_batch(batch_id: uuid.UUID) -> None:
    """From a batch that waits to a container that runs, or to the reason why it does not."""
    claim = claim_to_start(batch_id)
    if claim is None:
        return
    with contextlib.suppress(ClaimLost), renewed(batch_id, claim):
        # What stays if an error comes that nobody foresaw: it goes on to the log, the batch ends.
        failure: StartFailed | None = ours(ServerReason.UNEXPECTED)
        try:
            _start(batch_id, claim)
            failure = None
        except StartFailed as known:
            failure = known
        finally:
            if failure is not None:
                _fail(_batch(batch_id), claim, failure)
    SUPERVISOR_BELL.ring()


def finish_batch(batch_id: uuid.UUID) -> None:
    """Ends a batch whose container has ended, or is to be; a second delivery finds nothing to do.

    Raises EngineError, EngineUnavailable: it is asked for again.
    """
    claim = claim_to_finish(batch_id)
    if claim is None:
        return
    with contextlib.suppress(ClaimLost), renewed(batch_id, claim):
        _finish(_batch(batch_id), claim)
    SUPERVISOR_BELL.ring()


# -- start ----------------------------------------------------------------------------------------
def _start(batch_id: uuid.UUID, claim: uuid.UUID) -> None:
    """Raises StartFailed and ClaimLost; every error of the other rooms becomes a StartFailed."""
    with as_start_failures(f"batch {batch_id}"):
        _launch(_batch(batch_id), claim)


def _launch(batch: BatchPrediction, claim: uuid.UUID) -> None:
    registry = model_registry()
    version = _version(batch)
    if not files.input_file(batch.pk, batch.input_format).is_file():
        raise StartFailed(Reason.INPUT_LOST, meaning_of(Reason.INPUT_LOST.value).sentence)
    # The batch's row names the source already: nobody clears these files away.
    folder = model_files.model_folder(version, registry=registry)
    stores = engine_room.every_store()
    environment = environment_of(version, stores=stores, registry=registry)
    room = room_for(batch.model_name)
    # From here on nobody deletes the environment. A container of this name is removed next: it must
    # not be one that somebody else has started.
    write(
        batch.pk,
        claim,
        phase="starting",
        memory_mb=room.memory_mb,
        cpus=room.cpus,
        environment_key=environment.key,
    )
    engine = engine_room.engine()
    container_id = containers.start(
        batch,
        engine=engine,
        store=engine_room.environments(environment.image),
        environment=environment,
        model_folder=folder,
        room=room,
    )
    moment = timezone.now()
    try:
        write(
            batch.pk,
            claim,
            container_id=container_id,
            launched_at=moment,
            deadline_at=moment + timedelta(seconds=settings.BATCH_SECONDS),
            queued_at=None,
        )
    except ClaimLost:
        engine.remove(container_id)
        raise
    log.info("batch.started batch=%s container=%s", batch.pk, container_id)


def room_for(model_name: str) -> containers.Room:
    """As much as a server of the model has, and not less than any batch."""
    policy = policy_of(model_name)
    return containers.Room(max(policy.memory_mb, settings.BATCH_MEMORY_MB), policy.cpus)


def _version(batch: BatchPrediction) -> ModelVersion:
    """As it was when the batch was accepted. Raises StartFailed."""
    try:
        version = model_registry().version(batch.model_name, batch.version)
    except APIException as error:
        raise unreachable(error) from error
    if version.source != batch.source:
        raise StartFailed(Reason.MODEL_CHANGED, meaning_of(Reason.MODEL_CHANGED.value).sentence)
    return version


# -- finish ---------------------------------------------------------------------------------------
def _finish(batch: BatchPrediction, claim: uuid.UUID) -> None:
    """What ended it is decided from facts, in this order: our own intent, then the container's."""
    engine = engine_room.engine()
    state = engine.state(batch.container_id)
    if batch.cancel_requested_at is not None:
        engine.remove(batch.container_id)
        told = "The batch was cancelled while it ran."
        _end(batch, claim, Status.CANCELLED, Reason.CANCELLED, error=told)
        return
    if state is not None and state.running:
        if batch.deadline_at is None or timezone.now() < batch.deadline_at:
            write(batch.pk, claim, queued_at=None)
            return
        told = f"The batch was not done within {settings.BATCH_SECONDS} s."
        failure = StartFailed(Reason.TIMEOUT, told, log_tail=_tail(engine, state))
        _give_up(batch, claim, failure, engine=engine)
        return
    errors = b"" if state is None else containers.last_words(engine, state)
    ended_by = containers.failure_of(state, errors, memory_mb=batch.memory_mb)
    if ended_by is not None or state is None:
        _give_up(batch, claim, ended_by or ours(ServerReason.UNEXPECTED), engine=engine)
        return
    _collect(batch, claim, state, tail=tail_of(errors), engine=engine)


def _collect(
    batch: BatchPrediction,
    claim: uuid.UUID,
    state: ContainerState,
    *,
    tail: str,
    engine: Engine,
) -> None:
    write(batch.pk, claim, phase="collecting")
    shape = Shape(
        form=batch.output_format,
        escape_formulas=batch.escape_formulas,
        most_bytes=settings.BATCH_OUTPUT_MAX_BYTES,
    )
    try:
        with files.published(batch.pk, batch.output_format) as path:
            came = write_table(path, lambda: parts_of(engine.printed(state.id)), shape)
            if isinstance(came, Done):
                # Whoever took over meanwhile publishes its own.
                write(batch.pk, claim, output_bytes=path.stat().st_size)
    except (RecordBroken, TableTooLarge) as error:
        too_large = isinstance(error, TableTooLarge)
        reason = Reason.OUTPUT_TOO_LARGE if too_large else Reason.OUTPUT_UNUSABLE
        told = meaning_of(reason.value).sentence
        log.warning("batch.record_refused batch=%s %s", batch.pk, error)
        _give_up(batch, claim, StartFailed(reason, told, log_tail=tail), engine=engine)
        return
    if isinstance(came, Refusal):
        _refused(batch, claim, came, tail=tail)
        engine.remove(state.id)
        return
    # The row first: one that says that it runs, without its container, would be begun again.
    _end(
        batch,
        claim,
        Status.COMPLETED,
        Reason.SUCCEEDED,
        rows_done=came.rows,
        rows_total=came.rows,
        share_done=1.0,
    )
    engine.remove(state.id)
    log.info("batch.completed batch=%s rows=%s", batch.pk, came.rows)


def _refused(batch: BatchPrediction, claim: uuid.UUID, came: Refusal, *, tail: str) -> None:
    known = {Reason.PARQUET_NOT_POSSIBLE, Reason.OUTPUT_TOO_LARGE}
    reason = next((one for one in known if one.value == came.code), None)
    if reason is None:
        reason = Reason.FILE_REFUSED if came.status == 400 else Reason.MODEL_FAILED
    sentence = came.detail or meaning_of(reason.value).sentence
    log.info("batch.refused batch=%s reason=%s", batch.pk, reason.value)
    _end(
        batch,
        claim,
        Status.FAILED,
        reason,
        error=sentence,
        errors=list(came.errors),
        log_tail=tail if reason == Reason.MODEL_FAILED else "",
    )


def _give_up(
    batch: BatchPrediction, claim: uuid.UUID, failure: StartFailed, *, engine: Engine
) -> None:
    engine.remove(batch.container_id)
    _fail(batch, claim, failure)


def _fail(batch: BatchPrediction, claim: uuid.UUID, failure: StartFailed) -> None:
    """Once more where that may help, after a pause; else the end. Raises ClaimLost."""
    if may_try_again(failure.reason, attempts=batch.attempts):
        pause = timedelta(seconds=retry_seconds(batch.attempts))
        write(batch.pk, claim, **to_wait_again(failure), not_before=timezone.now() + pause)
        log.warning("batch.again batch=%s reason=%s", batch.pk, failure.reason)
        return
    log.warning("batch.failed batch=%s reason=%s", batch.pk, failure.reason)
    _end(
        batch,
        claim,
        Status.FAILED,
        failure.reason,
        error=failure.sentence,
        log_tail=failure.log_tail,
    )


def to_wait_again(failure: StartFailed) -> dict[str, Any]:
    """It waits for another attempt, and says what became of the last one."""
    return {
        "status": Status.QUEUED,
        "phase": "",
        "reason": failure.reason,
        "error": failure.sentence,
        "log_tail": failure.log_tail,
        **NOWHERE,
        **UNCLAIMED,
    }


def _end(
    batch: BatchPrediction, claim: uuid.UUID, status: Status, reason: str, **fields: Any
) -> None:
    """The file that was sent goes with the end. Raises ClaimLost."""
    told = {"error": "", "errors": [], "log_tail": "", **fields}
    write(
        batch.pk,
        claim,
        status=status,
        phase="",
        reason=str(reason),
        ended_at=timezone.now(),
        not_before=None,
        **told,
    )
    files.remove_input(batch.pk)


def _batch(batch_id: uuid.UUID) -> BatchPrediction:
    return BatchPrediction.objects.get(pk=batch_id)


def _tail(engine: Engine, state: ContainerState) -> str:
    return tail_of(containers.last_words(engine, state))
