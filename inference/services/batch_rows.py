"""Rows of batches: who may write one, and when.

Whoever prepares or collects a batch holds its claim; every write of that work is guarded by its
token, and zero rows changed means that the batch is somebody else's now.
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from django.db.models import F
from django.utils import timezone

from inference.batch.states import Status
from inference.models import BatchPrediction
from inference.services import claims
from inference.services.claims import ClaimLost
from registry import holds

ENGINE = "local"
NOWHERE: dict[str, Any] = {
    "container_id": "",
    "launched_at": None,
    "deadline_at": None,
    "rows_done": 0,
    "rows_total": None,
    "share_done": 0,
}


def claim_to_start(batch_id: uuid.UUID) -> uuid.UUID | None:
    """A batch that waits becomes one that runs; None when it is not to be started.

    None either when somebody paused admission since a worker was asked.
    """
    moment = timezone.now()
    waiting = BatchPrediction.objects.filter(pk=batch_id, status=Status.QUEUED)
    return claims.take(
        waiting.filter(~holds.on(ENGINE), cancel_requested_at=None),
        moment,
        status=Status.RUNNING,
        phase="preparing",
        started_at=moment,
        attempts=F("attempts") + 1,
        **NOWHERE,
    )


def claim_to_finish(batch_id: uuid.UUID) -> uuid.UUID | None:
    """None when nobody was launched, or another worker has it."""
    launched = BatchPrediction.objects.filter(pk=batch_id, status=Status.RUNNING)
    return claims.take(launched.exclude(launched_at=None), timezone.now())


@contextlib.contextmanager
def renewed(batch_id: uuid.UUID, token: uuid.UUID) -> Iterator[None]:
    """Keeps the claim while the work goes on, and gives it up then."""
    held = BatchPrediction.objects.filter(pk=batch_id, claim=token)
    try:
        with claims.renewed(held, f"batch {batch_id}"):
            yield
    finally:
        held.update(claim_expires_at=None, claim_owner="")


def write(batch_id: uuid.UUID, held: uuid.UUID, /, **fields: Any) -> None:
    """`held` is the claim. Raises ClaimLost when the batch is no longer ours to work on."""
    ours = BatchPrediction.objects.filter(pk=batch_id, claim=held, status=Status.RUNNING)
    if not ours.update(changed_at=timezone.now(), **fields):
        raise ClaimLost
