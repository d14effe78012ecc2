"""Rows of model servers: who may write one, and what others see of it.

Whoever starts a server holds its claim, with name and time; every write of that work is guarded by
its token, and zero rows changed means that the server is somebody else's now.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import Q
from django.utils import timezone

from inference.models import ModelServer
from sandbox import holders

log = logging.getLogger(__name__)

CLAIM_SECONDS = 60
CLAIM_RENEW_SECONDS = 15
Status = ModelServer.Status
LIVE = (Status.STARTING, Status.READY, Status.STOPPING)
NOWHERE: dict[str, Any] = {"container_id": "", "address": "", "token": "", "memory_bytes": None}


class ClaimLost(Exception):
    """Somebody else starts or has stopped this server; whoever raised this leaves it alone."""


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
    moment = timezone.now()
    free = Q(claim_expires_at=None) | Q(claim_expires_at__lt=moment)
    token = uuid.uuid4()
    changed = ModelServer.objects.filter(free, pk=server_id, status=Status.STARTING).update(
        claim=token,
        claim_owner=holders.me(),
        claim_expires_at=moment + timedelta(seconds=CLAIM_SECONDS),
        changed_at=moment,
    )
    return token if changed else None


@contextlib.contextmanager
def renewed(server_id: int, token: uuid.UUID) -> Iterator[None]:
    """Keeps the claim while the work goes on; a build may be silent for minutes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(CLAIM_RENEW_SECONDS):
            _renew(server_id, token)
        connection.close()

    keeper = threading.Thread(target=renew, name=f"claim-{server_id}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        ModelServer.objects.filter(pk=server_id, claim=token).update(claim_expires_at=None)


def _renew(server_id: int, token: uuid.UUID) -> None:
    """A database that is locked for a while must not end the claim of a start of minutes."""
    expires = timezone.now() + timedelta(seconds=CLAIM_SECONDS)
    try:
        ModelServer.objects.filter(pk=server_id, claim=token).update(claim_expires_at=expires)
    except DatabaseError:
        log.warning("server.claim_not_renewed", extra={"server": server_id})
        connection.close()


def write(server_id: int, held: uuid.UUID, /, **fields: Any) -> None:
    """`held` is the claim. Raises ClaimLost when the server is no longer ours to start."""
    changed = ModelServer.objects.filter(pk=server_id, claim=held, status=Status.STARTING).update(
        **now(), **fields
    )
    if not changed:
        raise ClaimLost
