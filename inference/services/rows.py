"""Rows of model servers: who may write one, and what others see of it.

Whoever starts a server holds its claim, with name and time; every write of that work is guarded by
its token, and zero rows changed means that the server is somebody else's now.
"""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from inference.models import ModelServer
from inference.services import claims
from inference.services.claims import ClaimLost

Status = ModelServer.Status
LIVE = (Status.STARTING, Status.READY, Status.STOPPING)
NOWHERE: dict[str, Any] = {"container_id": "", "address": "", "token": "", "memory_bytes": None}


@dataclass(frozen=True)
class ServerView:
    """What a caller of a server needs to know of it."""

    id: int
    replica: int
    status: str
    phase: str
    address: str
    token: str
    source: str
    reason: str
    error: str


def view(server: ModelServer) -> ServerView:
    return ServerView(
        id=server.pk,
        replica=server.replica,
        status=server.status,
        phase=server.phase,
        address=server.address,
        token=server.token,
        source=server.source,
        reason=server.reason,
        error=server.error,
    )


def now() -> dict[str, Any]:
    return {"changed_at": timezone.now()}


def claim(server_id: int) -> uuid.UUID | None:
    """None when the server is not to be started, or another worker does so."""
    starting = ModelServer.objects.filter(pk=server_id, status=Status.STARTING)
    return claims.take(starting, timezone.now())


@contextlib.contextmanager
def renewed(server_id: int, token: uuid.UUID) -> Iterator[None]:
    """Keeps the claim while the work goes on, and gives it up then."""
    held = _held(server_id, token)
    try:
        with claims.renewed(held, f"server {server_id}"):
            yield
    finally:
        held.update(claim_expires_at=None)


def _held(server_id: int, token: uuid.UUID) -> QuerySet[ModelServer]:
    """The server, as long as the claim is the one of this token."""
    return ModelServer.objects.filter(pk=server_id, claim=token)


def write(server_id: int, held: uuid.UUID, /, **fields: Any) -> None:
    """`held` is the claim. Raises ClaimLost when the server is no longer ours to start."""
    changed = ModelServer.objects.filter(pk=server_id, claim=held, status=Status.STARTING).update(
        **now(), **fields
    )
    if not changed:
        raise ClaimLost
