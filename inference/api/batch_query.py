"""Reads the query of a list of batches; names every parameter that is wrong."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from django.http import QueryDict

from inference.batch.states import Status
from inference.models import BatchPrediction
from registry.list_queries import (
    LIMIT_DEFAULT,
    QueryReader,
    limit_of,
    member_of,
    time_and_id_of,
    whole_name,
)
from registry.rawhttp import cursors

PARAMETERS = ("status", "model", "limit", "cursor")


@dataclass(frozen=True)
class BatchQuery:
    """Which batches, how many, and where to go on."""

    status: str
    model_name: str
    limit: int
    after: tuple[datetime, uuid.UUID] | None


def read_query(parameters: QueryDict) -> BatchQuery:
    """Raises ParametersRejected with all that is wrong."""
    reader = QueryReader(parameters, PARAMETERS)
    reader.refuse_unknown()
    query = BatchQuery(
        status=reader.one("status", member_of(Status)) or "",
        model_name=reader.one("model", whole_name) or "",
        limit=reader.one("limit", limit_of) or LIMIT_DEFAULT,
        after=reader.one("cursor", time_and_id_of),
    )
    reader.raise_if_any()
    return query


def cursor_of(batch: BatchPrediction) -> str:
    """Opaque to clients: they send back what they were given."""
    return cursors.cursor_of(batch.created_at, batch.pk.hex)
