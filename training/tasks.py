"""What the queue calls; each may be delivered twice, and each looks at the rows first."""

import logging

from training import engine_room
from training.services import claim, environments, network, observe, rows, waiting
from training.services import finish as finishing
from training.services import launch as launching
from training.services import resolve as resolving

log = logging.getLogger(__name__)


def launch() -> None:
    """Starts the job that is next, if there is room for it."""
    observe.end_overdue(engine_room.engine())
    attempt = claim.claim_next()
    if attempt is None:
        return
    try:
        launching.launch(attempt)
    except rows.LeaseLost:
        log.warning("job.lease_lost", extra={"attempt": attempt.pk})


def finish(attempt_id: int) -> None:
    """Ends an attempt whose container has ended; a second delivery finds nothing to do."""
    attempt = finishing.claim_finish(attempt_id)
    if attempt is None:
        return
    try:
        finishing.finish(attempt)
    except rows.LeaseLost:
        log.warning("job.lease_lost", extra={"attempt": attempt_id})


def fill_pool(environment_key: str) -> None:
    """Makes a waiting container; a second delivery finds enough of them."""
    waiting.fill(environment_key)


def resolve(resolution_id: int) -> None:
    """Finds out what a set of requirements would install; a second delivery finds nothing to do."""
    resolving.answer(resolution_id)


def keep_network() -> None:
    """Writes the firewall's rules again, in case that somebody removed them."""
    network.keep(engine_room.engine())


def prove_network() -> None:
    """Tries from inside what jobs may reach and what they may not."""
    network.prove(engine_room.engine())


def change_environment(key: str) -> None:
    """Builds an environment again or deletes it; a second delivery finds nothing to do."""
    environments.change(key)
