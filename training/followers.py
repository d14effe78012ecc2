"""Threads that read from the engine what comes by itself: a container's output, its use, its end.

They hand over what they read and write no row: the supervisor's one loop does.
"""

import logging
import threading
import time
from collections.abc import Mapping

from sandbox.engine import Engine, EngineError, EngineUnavailable, Usage
from sandbox.output import Run, printed
from training import logs
from training.models import Attempt, LogChunk

log = logging.getLogger(__name__)

USAGE_SECONDS = 2.0
RECONNECT_SECONDS = 1.0


class LogFollower:
    """Reads one container's output in a thread; the supervisor stores what it has read.

    It reads from the beginning: what an earlier follower stored is not stored again.
    """

    def __init__(self, *, engine: Engine, attempt: Attempt, wake: threading.Event) -> None:
        self._container_id = attempt.container_id
        self._attempt_id = attempt.pk
        self._engine = engine
        self._wake = wake
        self._intake = logs.Intake()
        self._unwritten: list[Run] = []
        self._thread = threading.Thread(target=self._follow, name="log-follower", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def printed(self) -> int:
        """How many bytes the container has printed, stored or not."""
        return self._intake.end

    def store(self, attempt: Attempt) -> None:
        """Writes what was read since the last call.

        What could not be written comes first the next time.
        """
        self._write(attempt)
        self._unwritten = self._intake.take()
        self._write(attempt)

    def _write(self, attempt: Attempt) -> None:
        if self._unwritten:
            logs.append_runs(attempt, LogChunk.Part.RUN, self._unwritten)
            self._unwritten = []

    def _follow(self) -> None:
        try:
            for offset, data in printed(self._engine.follow_logs(self._container_id)):
                self._intake.put(offset, data)
        except (EngineError, EngineUnavailable):
            log.warning("job.log_broke_off", extra={"attempt": self._attempt_id})
        finally:
            self._wake.set()


class UsageSampler:
    """Asks the engine again and again what the running containers use; keeps each one's latest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watched: dict[int, str] = {}
        self._seen: dict[int, Usage] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._sample, name="usage-sampler", daemon=True).start()

    def watch(self, containers: Mapping[int, str]) -> None:
        """From now on these, by the attempt's id."""
        with self._lock:
            self._watched = dict(containers)

    def take(self) -> dict[int, Usage]:
        """What was seen since the last call."""
        with self._lock:
            seen, self._seen = self._seen, {}
        return seen

    def close(self) -> None:
        self._stop.set()

    def _sample(self) -> None:
        while not self._stop.wait(USAGE_SECONDS):
            with self._lock:
                watched = dict(self._watched)
            for attempt_id, container_id in watched.items():
                self._look(attempt_id, container_id)

    def _look(self, attempt_id: int, container_id: str) -> None:
        try:
            usage = self._engine.usage(container_id)
        except (EngineError, EngineUnavailable):
            return
        if usage is not None:
            with self._lock:
                earlier = self._seen.get(attempt_id, usage)
                peak = max(usage.memory_bytes, earlier.memory_bytes)
                self._seen[attempt_id] = Usage(memory_bytes=peak, cpu_seconds=usage.cpu_seconds)


class EngineEvents:
    """Sets `due` whenever one of our containers ends or goes, and when the engine itself went."""

    def __init__(self, engine: Engine, *, labels: Mapping[str, str], wake: threading.Event) -> None:
        self._engine = engine
        self._labels = labels
        self._wake = wake
        self.due = threading.Event()
        threading.Thread(target=self._follow, name="engine-events", daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                for _ in self._engine.events(self._labels):
                    self._tell()
            except (EngineError, EngineUnavailable):
                log.warning("engine.events_broke_off")
            self._tell()
            time.sleep(RECONNECT_SECONDS)  # the engine has nothing to wait on while it is away

    def _tell(self) -> None:
        self.due.set()
        self._wake.set()
