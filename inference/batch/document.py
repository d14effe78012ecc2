"""A batch as its users see it: one JSON document, whoever answers."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from inference.batch.states import Status, hint_of
from inference.models import BatchPrediction
from inference.services.batches import position_of


def path_of(batch: BatchPrediction) -> str:
    return f"/mlops/inference/batch/{batch.pk}"


def document_of(batch: BatchPrediction) -> dict[str, Any]:
    done = batch.status == Status.COMPLETED
    hint = hint_of(batch.reason, model_name=batch.model_name, version=batch.version)
    return {
        "batch_id": str(batch.pk),
        "status": batch.status,
        "phase": batch.phase,
        "position": position_of(batch),
        "model_name": batch.model_name,
        "model_version": batch.version,
        "file_name": batch.file_name,
        "input_format": batch.input_format,
        "input_bytes": batch.input_bytes,
        "format": batch.output_format,
        "return_probabilities": batch.return_probabilities,
        "include_inputs": batch.include_inputs,
        "escape_formulas": batch.escape_formulas,
        "rows_done": batch.rows_done,
        "rows_total": batch.rows_total,
        "share_done": batch.share_done,
        "reason": batch.reason,
        "error": batch.error,
        "hint": hint,
        "errors": batch.errors,
        "log_tail": batch.log_tail,
        "attempts": batch.attempts,
        "memory_mb": batch.memory_mb or None,
        "output_bytes": batch.output_bytes if done else None,
        "predictions": f"{path_of(batch)}/predictions" if done else None,
        "cancel_requested_at": _moment(batch.cancel_requested_at),
        "created_at": _moment(batch.created_at),
        "started_at": _moment(batch.started_at),
        "ended_at": _moment(batch.ended_at),
        "kept_until": _kept_until(batch),
    }


def _kept_until(batch: BatchPrediction) -> str | None:
    if batch.ended_at is None or not settings.KEEP_BATCHES_DAYS:
        return None
    return _moment(batch.ended_at + timedelta(days=settings.KEEP_BATCHES_DAYS))


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
