"""Starts the platform's processes, keeps them running, and ends all of them together."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from deploy.accounts import CHECKOUT, Account
from deploy.report import warn
from mlops_site.processes import kill_session

LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3
STOP_SECONDS = 15
LINES_SHOWN = 15
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 180.0
# So many deaths without health in between are told once, and end a platform that only starts.
DEATHS_TOLD = 5


@dataclass(frozen=True)
class Service:
    """One process: what it runs, as whom, and the only variables it gets."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    account: Account | None = None
    covered: tuple[Path, ...] = ()
    needed: tuple[Path, ...] = ()


class GaveUp(Exception):
    """A process died again and again while the platform started; the message has its last lines."""


class Backoff:
    """How long to wait before something that died is started again: 1, 2, 4 … 30 s.

    It forgets the deaths of what then ran for some minutes.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._due_at: float | None = None
        self.deaths = 0

    @property
    def waits(self) -> bool:
        """Whether a death was noted after the last start."""
        return self._due_at is not None

    @property
    def due(self) -> bool:
        return self._due_at is not None and self._clock() >= self._due_at

    def started(self) -> None:
        self._started_at = self._clock()
        self._due_at = None

    def died(self) -> float:
        """Returns the seconds until the next start is due."""
        now = self._clock()
        if now - self._started_at >= HEALTHY_SECONDS:
            self.deaths = 0
        delay = min(FIRST_DELAY_SECONDS * 2**self.deaths, LONGEST_DELAY_SECONDS)
        self.deaths += 1
        self._due_at = now + delay
        return delay


class _Running:
    """A started service: its process, its last lines, its log file."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.started_at = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=LINES_SHOWN)
        self._log = RotatingFileHandler(
            logs / f"{service.name}.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES
        )
        self.process = subprocess.Popen(
            _command(service),
            cwd=CHECKOUT,
            env=dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A group of its own: it is ended as a whole, and the terminal's Ctrl-C is ours alone.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=service.name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - Popen was given a pipe
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self.last_lines.append(line)
            self._log.handle(logging.makeLogRecord({"msg": line}))

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """All that the process started: the groups below it are of its session too."""
        kill_session(self.process.pid)
        self.process.wait()

    def close(self) -> None:
        self._reader.join(timeout=2)
        if not self._reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


class ProcessManager:
    """Starts services, starts a died one again, stops them in the reverse order.

    Until `settled` is called a service that dies again and again ends the start; after that it is
    tried for ever, since nobody may be there to start the platform again.
    """

    def __init__(self, *, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._backoff: dict[str, Backoff] = {}
        self._settled = False

    def start(self, service: Service) -> None:
        self._backoff[service.name] = Backoff(clock=self._clock)
        self._start(service)

    def settled(self) -> None:
        """The platform has started: from here on nothing gives up."""
        self._settled = True

    def check(self) -> None:
        """Starts what has died again, once its turn has come. Raises GaveUp until `settled`."""
        for name, running in list(self._running.items()):
            backoff = self._backoff[name]
            if backoff.due:
                self._start(running.service)
            elif not backoff.waits and running.process.poll() is not None:
                self._note_death(running, backoff)

    def stop(self, *, keep: Collection[str] = ()) -> None:
        """SIGTERM to each, the last started first, and SIGKILL to what is left; not to `keep`."""
        ending = [run for name, run in reversed(self._running.items()) if name not in keep]
        for running in ending:
            running.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for running in ending:
            try:
                running.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                warn(f"{running.service.name} did not end in time and is killed.")
            running.kill()
            running.close()
            del self._running[running.service.name]

    def _start(self, service: Service) -> None:
        self._running[service.name] = _Running(service, self._logs)
        self._backoff[service.name].started()

    def _note_death(self, running: _Running, backoff: Backoff) -> None:
        name = running.service.name
        running.kill()
        running.close()
        delay = backoff.died()
        said = "\n".join(f"    {line}" for line in running.last_lines)
        if backoff.deaths >= DEATHS_TOLD and not self._settled:
            raise GaveUp(f"{name} ends again and again. Its last lines:\n{said}")
        if backoff.deaths < DEATHS_TOLD:
            code = running.process.returncode
            warn(f"{name} ended with {code}; it is started again in {delay:.0f} s.\n{said}")
        elif backoff.deaths == DEATHS_TOLD:
            warn(
                f"{name} ends again and again. It is tried at most every "
                f"{LONGEST_DELAY_SECONDS:.0f} s from now on, and this is not said again. "
                f"Its last lines:\n{said}"
            )


def _command(service: Service) -> list[str]:
    account = service.account
    order = {
        "uid": account.uid if account else None,
        "gid": account.gid if account else None,
        "covered": [str(path) for path in service.covered],
        "needed": [str(path) for path in service.needed],
        "parent": os.getpid(),
    }
    child = [sys.executable, "-m", "deploy.child", json.dumps(order), *service.command]
    if not service.covered:
        return child
    return ["unshare", "--mount", "--propagation", "private", *child]
