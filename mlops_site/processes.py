"""What the kernel says of processes, and the end of a whole group or session of them."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
KILL_SECONDS = 5.0
KILL_POLL_SECONDS = 0.02
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class ProcessInfo:
    """One process that runs; one that is dead and only waits to be collected is none."""

    pid: int
    parent: int
    group: int
    session: int
    title: str


def processes() -> list[ProcessInfo]:
    """Every process of this machine that is alive."""
    found = (_look(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [process for process in found if process is not None]


def group_of(group: int) -> list[ProcessInfo]:
    return [process for process in processes() if process.group == group]


def kill_group(group: int) -> None:
    """SIGKILL to every member, orphans too, until none is left."""
    _kill_all(lambda process: process.group == group)


def kill_session(session: int) -> None:
    """SIGKILL to every process of the session, whatever group it is in, until none is left."""
    _kill_all(lambda process: process.session == session)


def die_with_parent(parent: int) -> None:
    """From here on the kernel kills this process when `parent` dies, and now if it is dead."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _kill_all(chosen: Callable[[ProcessInfo], bool]) -> None:
    """Again and again: a member may be making another one while it is killed."""
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        left = [process for process in processes() if chosen(process)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(KILL_POLL_SECONDS)  # nothing tells of the end of a process that is not a child


def _look(pid: int) -> ProcessInfo | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything; the fields follow the last bracket.
    state, parent, group, session = stat.rpartition(")")[2].split()[:4]
    if state in "ZX":
        return None
    return ProcessInfo(
        pid=pid,
        parent=int(parent),
        group=int(group),
        session=int(session),
        title=title.replace(b"\0", b" ").decode(errors="replace").strip(),
    )
