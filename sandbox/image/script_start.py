"""Starts a job's script, with as few modules as can be: each is a part of a millisecond of a start.

The container starts before all is ready that its script needs: the rest of the script's variables,
its passwords among them, come over standard input as one order, and who sent it closes the input,
so that an order that was cut off is seen as such. With it the deadline begins, and a line
`!began <seconds since 1970>` leaves. What looks after the script (`launcher.py`) is imported while
the script's own Python starts.
"""

import ctypes
import os
import signal
import sys
import time

DEADLINE_EXIT_CODE = 124
SIGNAL_EXIT_BASE = 160
ASKED_TO_END_EXIT_CODE = 225
LOG_QUOTA_EXIT_CODE = 226
NO_ORDER_EXIT_CODE = 227
ASKING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
LENGTH_BYTES = 4
ORDER_MAX_BYTES = 16 * 1024 * 1024
# How the relay wakes the thread that waits for signals.
PRINTED_TOO_MUCH = signal.SIGUSR1
WATCHED = ASKING | {signal.SIGCHLD, PRINTED_TOO_MUCH}
PR_SET_DUMPABLE = 4


class Started:
    """A script that runs: what it prints arrives at `output`; `given` are the command's options."""

    def __init__(self, pid: int, *, output: int, given: dict[str, str]) -> None:
        self.pid = pid
        self.output = output
        self.given = given


class Order:
    """The rest of the variables that a script has, which come when its container runs already."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    @classmethod
    def read(cls, source: int) -> "Order | None":
        """Four bytes with its length, then `NAME=value` between null bytes, as `sandbox/order.py`
        writes it; None when the input ends before the order does."""
        size = int.from_bytes(_read(source, LENGTH_BYTES), "big")
        if not 0 < size <= ORDER_MAX_BYTES:
            return None
        data = _read(source, size)
        if len(data) < size:
            return None
        pairs = (os.fsdecode(field).partition("=") for field in data.split(b"\0") if field)
        return cls({name: value for name, _, value in pairs})


def _read(source: int, size: int) -> bytes:
    """So many bytes; fewer when the input ends before."""
    found = b""
    while len(found) < size:
        data = os.read(source, size - len(found))
        if not data:
            break
        found += data
    return found


def start_python(
    path: str, *, output: int, variables: dict[str, str], kept_open: tuple[int, ...] = ()
) -> int:
    """A Python that runs this file, as every script runs; its process id."""
    for handle in kept_open:
        os.set_inheritable(handle, True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-u", path],
        variables,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,
        # What is blocked or ignored here would stay so in the script.
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def is_from_outside(news: signal.struct_siginfo) -> bool:
    """The script may not end its own launcher: a sender outside the container has no id in it."""
    return os.getpid() != 1 or news.si_pid == 0


def keep_out() -> None:
    """From here on nothing of this process can be opened by the script, which has the same user.

    Else it could write to the engine, past the relay, by way of /proc/1/fd.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def say_began(sink: int) -> None:
    os.write(sink, b"!began %.6f\n" % time.time())


def start_ordered() -> Started | None:
    """Waits for the order and starts the script that the command line names; None without one."""
    *given, path = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    keep_out()
    order = Order.read(sys.stdin.fileno())
    if order is None:
        return None
    say_began(sys.stdout.fileno())
    ours, its = os.pipe()
    pid = start_python(path, output=its, variables={**os.environ, **order.variables})
    # Nobody but the script may hold this end: its end is the end of the output.
    os.close(its)
    return Started(pid, output=ours, given=dict(zip(given[::2], given[1::2], strict=True)))
