"""Batches as the web process asks for them: rows and files. It calls neither Docker nor workers.

A row that waits is all that an order is; the supervisor, whom a bell wakes, has it begun.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Q, Sum
from django.utils import timezone
from rest_framework.exceptions import APIException, NotFound

from inference.batch import files
from inference.batch.states import ENDED, OPEN, Reason, Status, meaning_of
from inference.containers import lock_of
from inference.models import BatchPrediction
from inference.question import LATEST
from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from registry.mlflow_client import ModelVersion, model_registry

log = logging.getLogger(__name__)
MB = 1024**2
RETRY_AFTER_SECONDS = 30


class BatchNotFound(NotFound):
    default_code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"Batch {batch_id} not found")
        self.hint = "GET /mlops/inference/batch lists them; old ones are deleted."


class TooManyBatches(APIException):
    status_code = HTTPStatus.TOO_MANY_REQUESTS
    default_code = "too_many_batches"
    wait = RETRY_AFTER_SECONDS

    def __init__(self) -> None:
        super().__init__(f"{settings.BATCH_QUEUE} batches are waiting already.")
        self.hint = "Send it when some of them have ended."


class NoSpace(APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "no_space"
    wait = RETRY_AFTER_SECONDS

    def __init__(self) -> None:
        super().__init__("The platform has no room on its disk for another file.")
        self.hint = "Old batches go by themselves; the operator sets MLOPS_BATCH_FILES_MAX_MB."


class ParquetNotPossible(APIException):
    status_code = HTTPStatus.BAD_REQUEST
    default_code = Reason.PARQUET_NOT_POSSIBLE.value

    def __init__(self) -> None:
        known = meaning_of(Reason.PARQUET_NOT_POSSIBLE.value)
        super().__init__(known.sentence)
        self.hint = known.hint
        self.errors = [{"field": "file", "detail": known.sentence, "hint": known.hint}]


class AlreadyEnded(APIException):
    status_code = HTTPStatus.CONFLICT
    default_code = "already_ended"

    def __init__(self, batch: BatchPrediction) -> None:
        super().__init__(f"The batch has ended already: {batch.status} ({batch.reason}).")
        self.hint = "There is nothing left to cancel."


class NotCompleted(APIException):
    """There are no predictions, not yet or never."""

    status_code = HTTPStatus.CONFLICT
    default_code = "not_completed"

    def __init__(self, batch: BatchPrediction) -> None:
        told = f" {batch.error}" if batch.error else ""
        super().__init__(f"The batch has no predictions: it is {batch.status}.{told}")
        waits = batch.status in OPEN
        path = f"GET /mlops/inference/batch/{batch.pk}"
        self.hint = f"Ask {path} until its status is completed." if waits else f"{path} says why."


@dataclass(frozen=True)
class Order:
    """What is wanted, as the request says it. `selector` is a number, an alias or `latest`."""

    model_name: str
    selector: str
    input_format: str
    output_format: str
    return_probabilities: bool
    include_inputs: bool
    escape_formulas: bool
    file_name: str


@dataclass(frozen=True)
class Cancelling:
    """The batch as it is now, and whether that is its end."""

    batch: BatchPrediction
    final: bool


def check_room(size: int) -> None:
    """Before an upload is read: whether it would be taken. Raises TooManyBatches, NoSpace."""
    if BatchPrediction.objects.filter(status=Status.QUEUED).count() >= settings.BATCH_QUEUE:
        raise TooManyBatches
    held = BatchPrediction.objects.aggregate(
        sent=Sum("input_bytes", filter=Q(status__in=OPEN)), made=Sum("output_bytes")
    )
    used_mb = ((held["sent"] or 0) + (held["made"] or 0) + size) // MB
    if used_mb > settings.BATCH_FILES_MAX_MB:
        raise NoSpace
    if files.free_mb() < settings.DISK_FREE_MB + size // MB:
        raise NoSpace


def resolve(order: Order) -> ModelVersion:
    """The version that answers, whatever is said of it later. Raises what the registry raises."""
    registry = model_registry()
    if order.selector == LATEST:
        return registry.version(order.model_name, None)
    if order.selector.isdecimal():
        return registry.version(order.model_name, order.selector)
    return registry.aliased(order.model_name, order.selector)


def submit(order: Order, upload: Path, *, owner: str) -> BatchPrediction:
    """Takes the file, which is gone from `upload`. Raises APIException for what is refused."""
    version = resolve(order)
    _refuse_parquet_that_nobody_reads(order, version)
    size = upload.stat().st_size
    check_room(size)
    moment = timezone.now()
    batch = BatchPrediction(
        model_name=order.model_name,
        version=version.version,
        source=version.source,
        file_name=order.file_name,
        input_format=order.input_format,
        input_bytes=size,
        output_format=order.output_format,
        return_probabilities=order.return_probabilities,
        include_inputs=order.include_inputs,
        escape_formulas=order.escape_formulas,
        owner=owner,
        created_at=moment,
        changed_at=moment,
    )
    files.take_in(upload, batch.pk, order.input_format)
    try:
        with transaction.atomic():
            batch.save(force_insert=True)
            _write_down(Act.BATCH_SUBMIT, batch, detail=order.file_name, actor=owner)
            SUPERVISOR_BELL.ring_on_commit()
    except BaseException:
        files.remove_all(batch.pk)
        raise
    log.info("batch.accepted batch=%s model=%s", batch.pk, batch)
    return batch


def look(batch_id: str) -> BatchPrediction:
    """Raises BatchNotFound."""
    try:
        return BatchPrediction.objects.get(pk=uuid.UUID(batch_id))
    except (ValueError, BatchPrediction.DoesNotExist):
        raise BatchNotFound(batch_id) from None


def page(
    *,
    status: str = "",
    model_name: str = "",
    limit: int,
    after: tuple[datetime, uuid.UUID] | None = None,
) -> Sequence[BatchPrediction]:
    """Newest first; those that follow `after`."""
    rows = BatchPrediction.objects.all()
    if status:
        rows = rows.filter(status=status)
    if model_name:
        rows = rows.filter(model_name=model_name)
    if after is not None:
        created_at, key = after
        rows = rows.filter(created_at__lte=created_at)
        rows = rows.filter(Q(created_at__lt=created_at) | Q(pk__lt=key))
    return list(rows.order_by("-created_at", "-id")[:limit])


def position_of(batch: BatchPrediction) -> int | None:
    """How many wait before it, and itself; None when it does not wait."""
    if batch.status != Status.QUEUED:
        return None
    before = Q(created_at__lt=batch.created_at) | Q(created_at=batch.created_at, pk__lte=batch.pk)
    return BatchPrediction.objects.filter(before, status=Status.QUEUED).count()


def cancel(batch_id: str) -> Cancelling:
    """Final at once only where nothing runs. Asked twice it is harmless.

    Raises BatchNotFound, AlreadyEnded.
    """
    batch = look(batch_id)
    with transaction.atomic():
        ended, asked = _end_waiting(batch), _ask_running(batch)
        # Not once more when it waits again after it was asked to end.
        if (ended or asked) and batch.cancel_requested_at is None:
            _write_down(Act.BATCH_CANCEL, batch)
    if ended:
        files.remove_input(batch.pk)
    batch.refresh_from_db()
    if batch.status in ENDED and batch.status != Status.CANCELLED:
        raise AlreadyEnded(batch)
    return Cancelling(batch, final=batch.status == Status.CANCELLED)


def _end_waiting(batch: BatchPrediction) -> bool:
    moment = timezone.now()
    waiting = BatchPrediction.objects.filter(pk=batch.pk, status=Status.QUEUED)
    ended = waiting.update(
        status=Status.CANCELLED,
        phase="",
        reason=Reason.CANCELLED,
        error="The batch was cancelled while it waited.",
        cancel_requested_at=moment,
        ended_at=moment,
        changed_at=moment,
    )
    return bool(ended)


def _ask_running(batch: BatchPrediction) -> bool:
    running = BatchPrediction.objects.filter(pk=batch.pk, status=Status.RUNNING)
    asked = running.filter(cancel_requested_at=None).update(cancel_requested_at=timezone.now())
    SUPERVISOR_BELL.ring_on_commit()
    return bool(asked)


def _write_down(act: Act, batch: BatchPrediction, *, detail: str = "", actor: str = "") -> None:
    name = f"{batch.model_name} version {batch.version}"
    audit.record(act, Kind.BATCH, batch.pk, name=name, detail=detail, actor=actor)


def predictions_of(batch_id: str) -> tuple[BatchPrediction, Path]:
    """Where its predictions are. Raises BatchNotFound, NotCompleted."""
    batch = look(batch_id)
    path = files.predictions_file(batch.pk, batch.output_format)
    if batch.status != Status.COMPLETED:
        raise NotCompleted(batch)
    return batch, path


def environments_in_use() -> dict[str, list[str]]:
    """Which environments a batch has now, or will have in a moment."""
    found: dict[str, list[str]] = {}
    for batch in BatchPrediction.objects.filter(status=Status.RUNNING).exclude(environment_key=""):
        found.setdefault(batch.environment_key, []).append(f"the batch {batch.pk}")
    return found


def _refuse_parquet_that_nobody_reads(order: Order, version: ModelVersion) -> None:
    """Where the environment's lock is known; else its container says so."""
    if order.input_format != "parquet":
        return
    lock = lock_of(version.tags.get("mlops.environment", ""))
    if lock and not any(line.startswith(("pyarrow==", "pyarrow @")) for line in lock.splitlines()):
        raise ParquetNotPossible
