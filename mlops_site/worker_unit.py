"""The queue's cluster as one unit: it works as a whole, or it is ended as a whole.

django-q2 mends itself by halves. A monitor that is killed leaves the lock of the result queue
taken, and the next one waits for it for ever; so does, now and then, a worker that is killed while
it waits for work; a guard that is killed leaves workers that nobody looks after. So the cluster is
watched from outside, by what the kernel shows and by a task that does nothing but say that it ran,
and ended with SIGKILL when it is no longer whole. Whoever started the watcher starts it again.

    manage.py work (watcher)
      └─ main ── guard ─┬─ monitor        one process group; every one of them is killed by the
                        ├─ pusher         kernel when its parent dies, so that nothing of a cluster
                        └─ workers …      outlives its watcher
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlops_site.processes import ProcessInfo, group_of, kill_group

START_SECONDS = 60.0
SILENT_SECONDS = 30.0
SUSPECT_SECONDS = 10.0
STOP_SECONDS = 8.0
BUSY_MARK = " processing "


@dataclass(frozen=True)
class Look:
    """The cluster's processes at one moment; a worker's title says what it does."""

    main: bool = False
    guard: int | None = None
    monitor: int | None = None
    pusher: int | None = None
    workers: Mapping[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        found = (self.guard, self.monitor, self.pusher)
        return self.main and None not in found and bool(self.workers)

    @property
    def busy(self) -> bool:
        """Every worker is at a task: then none can run the one that says that it ran."""
        return bool(self.workers) and all(BUSY_MARK in title for title in self.workers.values())


def look_at(main: int, members: list[ProcessInfo]) -> Look:
    """Sorts the members of the cluster's group by what they are for."""
    guard = next((each.pid for each in members if each.parent == main), None)
    below = [each for each in members if guard is not None and each.parent == guard]
    return Look(
        main=any(each.pid == main for each in members),
        guard=guard,
        monitor=next((each.pid for each in below if each.title.endswith(" monitor")), None),
        pusher=next((each.pid for each in below if each.title.endswith(" pusher")), None),
        workers={
            each.pid: each.title
            for each in below
            if each.title.endswith(" idle") or BUSY_MARK in each.title
        },
    )


class Judge:
    """Decides from what is seen whether the cluster still works.

    Silence alone is no death: a worker may be at a build for a quarter of an hour. Dead is a
    cluster with a worker that could run the task, where for a while neither the task ran nor any
    worker began or ended anything. After the loss of a worker or of the pusher, which may have
    taken a lock with it, that while is shorter.
    """

    def __init__(self, *, now: float) -> None:
        self._started_at = now
        self._moved_at = now
        self._suspect = False
        self._first: Look | None = None
        self._last = Look()
        self._beat: object = None
        self._beaten = False

    @property
    def suspects(self) -> bool:
        """Something was lost, and no task has shown yet that the rest works."""
        return self._suspect

    def fault(self, look: Look, *, beat: object, now: float) -> str:
        """What is wrong, in words; empty while nothing is. `beat` changes with every beat."""
        self._note(look, beat=beat, now=now)
        if not look.main:
            return "its main process ended"
        if self._first is None or not self._beaten:
            return self._starting_fault(look, now=now)
        if look.guard != self._first.guard:
            return "its guard is gone"
        if look.monitor != self._first.monitor:
            return "its monitor is gone"
        patience = SUSPECT_SECONDS if self._suspect else SILENT_SECONDS
        if not look.busy and now - self._moved_at > patience:
            return f"no task was run for {patience:.0f} s although a worker was free"
        return ""

    def forgive_silence(self, *, now: float) -> None:
        """The database cannot be asked: nobody can have run anything."""
        self._moved_at = now

    def _starting_fault(self, look: Look, *, now: float) -> str:
        if self._first is not None and look.guard != self._first.guard:
            return "its guard is gone"
        if self._first is not None and look.monitor != self._first.monitor:
            return "its monitor is gone"
        if not look.busy and now - max(self._started_at, self._moved_at) > START_SECONDS:
            return f"it ran no task within {START_SECONDS:.0f} s of its start"
        return ""

    def _note(self, look: Look, *, beat: object, now: float) -> None:
        if beat is not None and beat != self._beat:
            if self._first is not None:  # before, it is an earlier cluster's
                self._moved_at, self._suspect, self._beaten = now, False, True
            self._beat = beat
        if self._first is None:
            self._first = look if look.complete else None
            self._last = look
            return
        if look.workers != self._last.workers:
            self._moved_at = now
        lost = set(self._last.workers) - set(look.workers)
        if lost or look.pusher != self._last.pusher:
            self._suspect, self._moved_at = True, now
        self._last = look


class ClusterUnit:
    """A cluster that runs in a process group of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "manage.py", "work", "--cluster-of", str(os.getpid())]
        self._main = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)

    def look(self) -> Look:
        if self._main.poll() is not None:
            return Look()
        return look_at(self._main.pid, group_of(self._main.pid))

    def stop(self) -> None:
        """Lets running tasks end for a few seconds, then ends what is left.

        To the main process only: a signal to all of them can hang it for ever.
        """
        if self._main.poll() is None:
            self._main.send_signal(signal.SIGTERM)
        try:
            self._main.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends every process of the cluster at once, orphans too."""
        kill_group(self._main.pid)
        self._main.wait()
