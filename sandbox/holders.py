"""Who holds a piece of work on a host: a process, which may die without a word.

What a job's attempt and a model server share of a lease; rows and tokens are their own. Knows no
Docker and no database. A container that one process needs for a moment names it in a label.
"""

import os
import socket
from pathlib import Path

HOLDER_LABEL = "mlops.holder"


def me() -> str:
    """Who holds a lease: this process on this host."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_gone(holder: str) -> bool:
    """Whether a holder was a process of this host that is no more; its lease need not run out.

    False for whatever cannot be known: another host, or an id that some other process has now.
    """
    host, _, pid = holder.rpartition(":")
    return host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists()
