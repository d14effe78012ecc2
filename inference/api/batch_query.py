"""Reads the query of a list of batches; names every parameter that is wrong."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from django.http import QueryDict
from rest_framework.serializers import ValidationError

from inference.batch.states import Status
from inference.models import BatchPrediction
from registry.rawhttp import cursors

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
PARAMETERS = ("status", "model", "limit", "cursor")
Place = tuple[datetime, uuid.UUID]


@dataclass(frozen=True)
class BatchQuery:
    """Which batches, how many, and where to go on."""

    status: str
    model_name: str
    limit: int
    after: Place | None


def read_query(parameters: QueryDict) -> BatchQuery:
    """Raises ValidationError with all that is wrong."""
    known = ", ".join(PARAMETERS)
    wrong = {
        name[:80]: f"There is no such parameter; known: {known}."
        for name in parameters
        if name not in PARAMETERS
    }
    status, limit = parameters.get("status", ""), parameters.get("limit", str(LIMIT_DEFAULT))
    if status and status not in Status.values:
        wrong["status"] = f"Send one of: {', '.join(Status.values)}."
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= LIMIT_MAX):
        wrong["limit"] = f"Send a whole number from 1 to {LIMIT_MAX}."
    after = None
    if "cursor" in parameters:
        after = _place_of(parameters.get("cursor", ""))
        if after is None:
            wrong["cursor"] = "Send the `next` of an earlier answer as it was."
    model_name = parameters.get("model", "")
    if "\0" in model_name:
        wrong["model"] = "There is a NUL in it."
    if wrong:
        raise ValidationError(wrong)
    return BatchQuery(status, model_name, int(limit), after)


def cursor_of(batch: BatchPrediction) -> str:
    """Opaque to clients: they send back what they were given."""
    return cursors.cursor_of(batch.created_at, batch.pk.hex)


def _place_of(cursor: str) -> Place | None:
    try:
        created_at, key = cursors.place_of(cursor)
        return created_at, uuid.UUID(key)
    except ValueError:
        return None
