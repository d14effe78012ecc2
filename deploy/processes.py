"""Starts the platform's processes, keeps them running, and ends all of them together."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from deploy.accounts import CHECKOUT, Account
from deploy.report import warn

LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3
STOP_SECONDS = 15
QUICK_DEATH_SECONDS = 20
QUICK_DEATHS_MAX = 5
LINES_SHOWN = 15


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
    """A process died again and again; the message has its last lines."""


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

    def signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        self._reader.join(timeout=2)
        self._log.close()


class ProcessManager:
    """Starts services, starts a died one again, stops them in the reverse order."""

    def __init__(self, *, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, _Running] = {}
        self._quick_deaths: dict[str, int] = {}

    def start(self, service: Service) -> None:
        self._running[service.name] = _Running(service, self._logs)

    def check(self) -> None:
        """Starts what has died again. Raises GaveUp when that has helped nothing for a while."""
        for running in list(self._running.values()):
            if running.process.poll() is not None:
                self._restart(running)

    def stop(self) -> None:
        """SIGTERM to each group, and SIGKILL to what is left of it."""
        for running in reversed(self._running.values()):
            running.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for running in reversed(self._running.values()):
            try:
                running.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                warn(f"{running.service.name} did not end in time and is killed.")
            # Also what its main process left behind: a queue's guard may outlive its cluster.
            running.signal_group(signal.SIGKILL)
            running.process.wait()
            running.close()
        self._running.clear()

    def _restart(self, running: _Running) -> None:
        name = running.service.name
        running.signal_group(signal.SIGKILL)
        running.close()
        quick = time.monotonic() - running.started_at < QUICK_DEATH_SECONDS
        self._quick_deaths[name] = self._quick_deaths.get(name, 0) + 1 if quick else 1
        said = "\n".join(f"    {line}" for line in running.last_lines)
        if self._quick_deaths[name] >= QUICK_DEATHS_MAX:
            raise GaveUp(f"{name} ends again and again. Its last lines:\n{said}")
        warn(f"{name} ended with {running.process.returncode}; it is started again.\n{said}")
        self.start(running.service)


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
