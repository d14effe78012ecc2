"""The first process of a waiting container: gets one order, runs one script, as `launcher.py` does.

It starts a Python that imports the usual modules and then waits (`waiting_path/sitecustomize.py`);
this process imports nothing but the standard library, and waits too: nothing polls. The order comes
over standard input, as any job's does (`launcher.py`), and names the script and its bounds too,
which are not known before. From there on everything is the launcher's. Where the waiting Python
would not be the same for the script as a fresh one, a fresh one runs it.

Beside the launcher's frames two lines leave here: `!ready` when the imports are done, and
`!began <seconds since 1970>` when an order came, before its script runs.
"""

import json
import os
import re
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from launcher import Excerpt, Relay, Script
from script_start import (
    ASKED_TO_END_EXIT_CODE,
    ASKING,
    NO_ORDER_EXIT_CODE,
    WATCHED,
    Order,
    is_from_outside,
    keep_out,
    say_began,
    start_python,
)

HEARD = signal.SIGUSR1
# What the names of an order's bounds begin with; any other launcher is started with them.
BOUNDS = ":"
WAITING_PATH = "/opt/mlops/waiting_path"
FD_VARIABLE = "MLOPS_WAITING_FD"
# As long as a file's name can be: the script's is put in its place.
PLACEHOLDER = "/job/" + "_" * 250
# What the interpreter or a C library reads at its start, where nobody can watch it.
READ_EARLY = re.compile(
    r"PYTHON|OMP_|GOMP_|KMP_|OPENBLAS|GOTO_|BLIS_|BLAS_|MKL_|NUMEXPR|VECLIB_|TBB_|LD_|MALLOC_"
    r"|GLIBC_|ARROW_|LC_|(?:LANG|LANGUAGE|TZ|TZDIR|HOME|PATH|TMPDIR|TEMP|TMP)$"
)


@dataclass(frozen=True)
class Imported:
    """What the waiting Python says of itself.

    `asked` are the variables that imports looked at, with what they saw; `changed` those that they
    set; `modules` every module that is there.
    """

    asked: Mapping[str, str | None]
    changed: Mapping[str, str]
    modules: frozenset[str]


@dataclass(frozen=True)
class Task:
    """What is to run, how long it may, and what may be kept of its output."""

    path: str
    variables: Mapping[str, str]
    seconds: float
    grace_seconds: float
    log_bytes: int
    log_hard_bytes: int

    @classmethod
    def of(cls, order: Order) -> "Task":
        """Raises KeyError, ValueError for an order without bounds."""
        given = order.variables
        return cls(
            path=given[f"{BOUNDS}path"],
            variables={name: given[name] for name in given if not name.startswith(BOUNDS)},
            seconds=float(given[f"{BOUNDS}seconds"]),
            grace_seconds=float(given[f"{BOUNDS}grace_seconds"]),
            log_bytes=int(given[f"{BOUNDS}log_bytes"]),
            log_hard_bytes=int(given[f"{BOUNDS}log_hard_bytes"]),
        )


def why_fresh(imported: Imported | None, *, task: Task, made_with: Mapping[str, str]) -> str:
    """Why the script needs a Python of its own; empty when the waiting one is the same to it."""
    if imported is None:
        return "the imports are not done"
    if len(task.path) > len(PLACEHOLDER):
        return "the script's name is too long"
    if PurePosixPath(task.path).stem in imported.modules:
        return "the script has the name of a module"
    for name, value in task.variables.items():
        if made_with.get(name) == value:
            continue
        if name in imported.asked or name in imported.changed or READ_EARLY.match(name):
            return f"{name} is read before a script runs"
    return ""


@dataclass
class Hearing:
    """Listens, in a thread, to the waiting Python and to whoever sends the order."""

    control: socket.socket
    source: int
    sink: int
    imported: Imported | None = None
    order: Order | None = None
    over: bool = False
    _main: int = field(default_factory=threading.get_ident)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        listening: list[Any] = [self.control, self.source]
        while not self.over:
            heard, _, _ = select.select(listening, [], [])
            if self.control in heard:
                listening.remove(self.control)
                self._hear_imports()
            if self.source in heard:
                self.order = Order.read(self.source)
                self.over = True
        signal.pthread_kill(self._main, HEARD)

    def _hear_imports(self) -> None:
        with self.control.makefile("rb") as lines:
            line = lines.readline()
        if not line.endswith(b"\n"):
            return  # it ended
        told = json.loads(line)
        self.imported = Imported(
            asked=told["asked"], changed=told["changed"], modules=frozenset(told["modules"])
        )
        os.write(self.sink, b"!ready\n")


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    keep_out()
    pipe = os.pipe()
    ours, its = socket.socketpair()
    waiting = _start_waiting(its, output=pipe[1])
    its.close()
    hearing = Hearing(control=ours, source=sys.stdin.fileno(), sink=sys.stdout.fileno())
    hearing.start()
    code = _wait_for_order(hearing)
    if code is not None:
        return code
    hearing.join()
    assert hearing.order is not None  # noqa: S101 - for the type
    task = Task.of(hearing.order)
    say_began(hearing.sink)
    return _run(task, hearing, pipe=pipe, waiting=waiting)


def _start_waiting(control: socket.socket, *, output: int) -> int:
    path = f"{WAITING_PATH}:{os.environ['PYTHONPATH']}"
    variables = {**os.environ, "PYTHONPATH": path, FD_VARIABLE: str(control.fileno())}
    return start_python(
        PLACEHOLDER, output=output, variables=variables, kept_open=(control.fileno(),)
    )


def _wait_for_order(hearing: Hearing) -> int | None:
    """None when there is one; else the exit code."""
    while not hearing.over:
        news = signal.sigwaitinfo(WATCHED)
        if news.si_signo in ASKING and is_from_outside(news):
            return ASKED_TO_END_EXIT_CODE
    return None if hearing.order else NO_ORDER_EXIT_CODE


def _run(task: Task, hearing: Hearing, *, pipe: tuple[int, int], waiting: int) -> int:
    relay = Relay(
        Excerpt(log_bytes=task.log_bytes, seconds=task.seconds),
        source=pipe[0],
        sink=hearing.sink,
        hard_bytes=task.log_hard_bytes,
    )
    made_with = dict(os.environ)
    variables = {**made_with, **task.variables}
    printed = bool(select.select([pipe[0]], [], [], 0)[0])
    if printed or why_fresh(hearing.imported, task=task, made_with=made_with):
        _end(waiting, output=pipe[0])
        pid = start_python(task.path, output=pipe[1], variables=variables)
    else:
        told = {"path": task.path, "variables": variables}
        hearing.control.sendall(json.dumps(told).encode() + b"\n")
        pid = waiting
    hearing.control.close()
    # Nobody but the script may hold this end: its end is the end of the output.
    os.close(pipe[1])
    return Script(pid, relay=relay, seconds=task.seconds, grace_seconds=task.grace_seconds).wait()


def _end(pid: int, *, output: int) -> None:
    """Ends the waiting Python, and drops what it printed."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while select.select([output], [], [], 0)[0]:
        if not os.read(output, 65536):
            return


if __name__ == "__main__":
    sys.exit(main())
