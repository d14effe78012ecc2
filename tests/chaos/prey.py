"""What is killed: the platform's processes, found anew each time, in an order that a seed fixes."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

from deploy.trial import Platform

SERVICES = ("web", "worker", "supervisor", "mlflow")
KINDS = (*SERVICES, "guard", "worker_child")
# A process manager may give up on what dies at once again and again, as it should.
QUICK_DEATH_SECONDS = 25
QUICK_DEATHS_MAX = 3
# What is on its way back when its turn comes: a platform under load starts a worker in seconds.
ON_ITS_WAY_SECONDS = 30
LOOK_SECONDS = 0.5


def children_of(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants_of(pid: int) -> list[int]:
    found = children_of(pid)
    return found + [deeper for child in found for deeper in descendants_of(child)]


def find(platform: Platform, kind: str, chance: random.Random) -> int | None:
    """The process of that kind now; None while it is on its way."""
    services = platform.processes()
    if kind in SERVICES:
        return services.get(kind)
    below = descendants_of(services["worker"]) if "worker" in services else []
    guards = [pid for pid in below if children_of(pid)]
    if kind == "guard":
        # The one right above the workers.
        return guards[-1] if guards else None
    leaves = [pid for pid in below if not children_of(pid)] if guards else []
    return chance.choice(sorted(leaves)) if leaves else None


class Hunter:
    """Kills one after the other, at moments that its seed chooses, until it is stopped."""

    def __init__(
        self,
        platform: Platform,
        *,
        seed: int,
        pause_seconds: tuple[float, float],
        kill_engine: Callable[[], None] | None = None,
    ) -> None:
        self._platform = platform
        self._chance = random.Random(seed)
        self._pause = pause_seconds
        self._kill_engine = kill_engine
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hunt, name="hunter", daemon=True)
        self._round_over = threading.Event()
        self._killed: Counter[str] = Counter()
        self._deaths: dict[str, tuple[float, int]] = {}

    def start(self) -> None:
        self._thread.start()

    @property
    def round_over(self) -> bool:
        """Every kind has had its turn, or nobody hunts any more."""
        return self._round_over.is_set() or not self._thread.is_alive()

    def stop(self) -> Mapping[str, int]:
        """How many were killed, by kind."""
        self._stop.set()
        self._thread.join()
        return dict(self._killed)

    def _hunt(self) -> None:
        kinds = [*KINDS, *(["dockerd"] if self._kill_engine else [])]
        while True:
            # Each once a round, so that a short storm kills every kind.
            for kind in self._chance.sample(kinds, len(kinds)):
                if self._stop.wait(self._chance.uniform(*self._pause)):
                    return
                self._kill_when_there(kind)
            self._round_over.set()

    def _kill_when_there(self, kind: str) -> None:
        deadline = time.monotonic() + ON_ITS_WAY_SECONDS
        while not self._killed_now(kind):
            if time.monotonic() > deadline or self._stop.wait(LOOK_SECONDS):
                return
        self._killed[kind] += 1
        print(f"killed {kind}", flush=True)

    def _killed_now(self, kind: str) -> bool:
        if kind == "dockerd":
            assert self._kill_engine is not None
            self._kill_engine()
            return True
        pid = find(self._platform, kind, self._chance)
        service = "worker" if kind == "guard" else kind
        if pid is None or not self._is_back(kind) or not self._is_fair(service):
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _is_back(self, kind: str) -> bool:
        """MLflow starts for longest: killed each time before it answers, it would never answer."""
        if kind not in ("web", "mlflow"):
            return True
        try:
            parts = self._platform.get("/mlops/ready").json()["parts"]
        except (requests.RequestException, KeyError):
            return False
        return kind == "web" or bool(parts["mlflow"])

    def _is_fair(self, service: str) -> bool:
        """Not for ever in its first seconds: what is wanted is a storm, not a siege."""
        now = time.monotonic()
        died_at, quick = self._deaths.get(service, (0.0, 0))
        quick = quick + 1 if now - died_at < QUICK_DEATH_SECONDS else 1
        if quick > QUICK_DEATHS_MAX:
            return False
        self._deaths[service] = (now, quick)
        return True
