"""Claims on rows: one worker at a time works on a row, and a token guards every write of that.

What a row is of stays with `rows.py` (servers) and `batch_rows.py` (batches); both have the fields
`claim`, `claim_owner`, `claim_expires_at` and `queued_at`.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import Q, QuerySet
from django.utils import timezone

from sandbox import holders

log = logging.getLogger(__name__)

CLAIM_SECONDS = 60
CLAIM_RENEW_SECONDS = 15
UNCLAIMED: dict[str, Any] = {"claim_expires_at": None, "claim_owner": "", "queued_at": None}


class ClaimLost(Exception):
    """The row is somebody else's to work on now; whoever raised this leaves it alone."""


def is_free(moment: datetime) -> Q:
    """Rows that nobody works on."""
    return Q(claim_expires_at=None) | Q(claim_expires_at__lt=moment)


def take(rows: QuerySet[Any], moment: datetime, **fields: Any) -> uuid.UUID | None:
    """The token of the claim on the one row of `rows`; None when it is not there, or not free."""
    token = uuid.uuid4()
    changed = rows.filter(is_free(moment)).update(
        claim=token,
        claim_owner=holders.me(),
        claim_expires_at=moment + timedelta(seconds=CLAIM_SECONDS),
        changed_at=moment,
        **fields,
    )
    return token if changed else None


@contextlib.contextmanager
def renewed(held: QuerySet[Any], name: str) -> Iterator[None]:
    """Keeps the claim on `held` while the work goes on; a build may be silent for minutes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(CLAIM_RENEW_SECONDS):
            _renew(held, name)
        connection.close()

    keeper = threading.Thread(target=renew, name=f"claim-{name}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _renew(held: QuerySet[Any], name: str) -> None:
    """A database that is locked for a while must not end a claim on work of minutes."""
    try:
        held.update(claim_expires_at=timezone.now() + timedelta(seconds=CLAIM_SECONDS))
    except DatabaseError:
        log.warning("claim.not_renewed %s", name)
        connection.close()


def free_of_the_dead(rows: QuerySet[Any]) -> None:
    """The next worker need not wait until the claim of a killed one runs out; its token is void."""
    held = rows.filter(claim_expires_at__gte=timezone.now())
    for key, claim, owner in held.values_list("pk", "claim", "claim_owner"):
        if not holders.is_gone(owner):
            continue
        if rows.filter(pk=key, claim=claim).update(claim=uuid.uuid4(), **UNCLAIMED):
            log.warning("claim.worker_died %s=%s owner=%s", rows.model.__name__, key, owner)
