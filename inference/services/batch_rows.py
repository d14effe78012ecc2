"""Rows of batches: who may write one, and when.

Whoever prepares or collects a batch holds its claim; every write of that work is guarded by its
token, and zero rows changed means that the batch is somebody else's now.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from inference.batch.states import Status
from inference.models import BatchPrediction
from inference.services.rows import CLAIM_RENEW_SECONDS, CLAIM_SECONDS, ClaimLost
from sandbox import holders

log = logging.getLogger(__name__)

UNCLAIMED: dict[str, Any] = {"claim_expires_at": None, "claim_owner": "", "queued_at": None}
NOWHERE: dict[str, Any] = {
    "container_id": "",
    "launched_at": None,
    "deadline_at": None,
    "rows_done": 0,
    "rows_total": None,
    "share_done": 0,
}


def is_free(moment: datetime) -> Q:
    return Q(claim_expires_at=None) | Q(claim_expires_at__lt=moment)


def claim_to_start(batch_id: uuid.UUID) -> uuid.UUID | None:
    """A batch that waits becomes one that runs; None when it is not to be started."""
    moment = timezone.now()
    waiting = BatchPrediction.objects.filter(pk=batch_id, status=Status.QUEUED)
    return _claimed(
        waiting.filter(cancel_requested_at=None),
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
    return _claimed(launched.exclude(launched_at=None), timezone.now())


@contextlib.contextmanager
def renewed(batch_id: uuid.UUID, token: uuid.UUID) -> Iterator[None]:
    """Keeps the claim while the work goes on; a build may be silent for minutes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(CLAIM_RENEW_SECONDS):
            _renew(batch_id, token)
        connection.close()

    keeper = threading.Thread(target=renew, name=f"claim-{batch_id}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        held = BatchPrediction.objects.filter(pk=batch_id, claim=token)
        held.update(claim_expires_at=None, claim_owner="")


def write(batch_id: uuid.UUID, held: uuid.UUID, /, **fields: Any) -> None:
    """`held` is the claim. Raises ClaimLost when the batch is no longer ours to work on."""
    ours = BatchPrediction.objects.filter(pk=batch_id, claim=held, status=Status.RUNNING)
    if not ours.update(changed_at=timezone.now(), **fields):
        raise ClaimLost


def free_claims_of_the_dead() -> None:
    """The next worker need not wait until the claim of a killed one runs out; its token is void."""
    held = BatchPrediction.objects.filter(claim_expires_at__gte=timezone.now())
    for batch_id, claim, owner in held.values_list("pk", "claim", "claim_owner"):
        if holders.is_gone(owner):
            log.warning("batch.worker_died batch=%s owner=%s", batch_id, owner)
            ours = BatchPrediction.objects.filter(pk=batch_id, claim=claim)
            ours.update(claim=uuid.uuid4(), **UNCLAIMED)


def _claimed(rows: QuerySet[BatchPrediction], moment: datetime, **fields: Any) -> uuid.UUID | None:
    token = uuid.uuid4()
    changed = rows.filter(is_free(moment)).update(
        claim=token,
        claim_owner=holders.me(),
        claim_expires_at=moment + timedelta(seconds=CLAIM_SECONDS),
        changed_at=moment,
        **fields,
    )
    return token if changed else None


def _renew(batch_id: uuid.UUID, token: uuid.UUID) -> None:
    """A database that is locked for a while must not end a claim."""
    expires = timezone.now() + timedelta(seconds=CLAIM_SECONDS)
    try:
        BatchPrediction.objects.filter(pk=batch_id, claim=token).update(claim_expires_at=expires)
    except DatabaseError:
        log.warning("batch.claim_not_renewed batch=%s", batch_id)
        connection.close()
