"""What the queue calls; each may be delivered twice, and each looks at the rows first."""

import logging

from training import services

log = logging.getLogger(__name__)


def launch() -> None:
    """Starts jobs until nothing waits or there is no room."""
    while (attempt := services.claim_next()) is not None:
        try:
            services.launch(attempt)
        except services.LeaseLost:
            log.warning("job.lease_lost", extra={"attempt": attempt.pk})


def finish(attempt_id: int) -> None:
    """Ends an attempt whose container has ended; a second delivery finds nothing to do."""
    attempt = services.claim_finish(attempt_id)
    if attempt is None:
        return
    try:
        services.finish(attempt)
    except services.LeaseLost:
        log.warning("job.lease_lost", extra={"attempt": attempt_id})
