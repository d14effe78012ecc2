"""What the queue calls; each may be delivered twice, and each looks at the rows first."""

import uuid

from inference import compact_forms
from inference.services import batch_work, starting


def start_server(server_id: int) -> None:
    """Starts what is to be started, unless another worker does so already."""
    starting.start_server(server_id)


def stop_server(server_id: int) -> None:
    """Stops what is to be stopped; a second delivery finds nothing to do."""
    starting.stop_server(server_id)


def keep_compact_form(server_id: int) -> None:
    """Keeps what the server made of its model, if it has come to an end with it."""
    compact_forms.keep(server_id)


def start_batch(batch_id: uuid.UUID) -> None:
    """Starts a batch that waits, unless another worker does so already."""
    batch_work.start_batch(batch_id)


def finish_batch(batch_id: uuid.UUID) -> None:
    """Collects or ends a batch; a second delivery finds nothing to do."""
    batch_work.finish_batch(batch_id)
