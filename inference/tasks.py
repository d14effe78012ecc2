"""What the queue calls; each may be delivered twice, and each looks at the rows first."""

from inference import compact_forms
from inference.services import starting


def start_server(server_id: int) -> None:
    """Starts what is to be started, unless another worker does so already."""
    starting.start_server(server_id)


def stop_server(server_id: int) -> None:
    """Stops what is to be stopped; a second delivery finds nothing to do."""
    starting.stop_server(server_id)


def keep_compact_form(server_id: int) -> None:
    """Keeps what the server made of its model, if it has come to an end with it."""
    compact_forms.keep(server_id)
