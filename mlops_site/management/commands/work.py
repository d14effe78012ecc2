"""`manage.py work`: runs the queue's cluster and watches it; ends when the cluster does not work.

Exit code 0 after SIGTERM or SIGINT; any other when the cluster was ended because something of it
was missing or silent. Whoever started this command starts it again.
"""

import logging
import os
import signal
import threading
import time
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, close_old_connections
from django_q.cluster import Cluster
from django_q.tasks import async_task

from mlops_site.models import WORKER, Heartbeat
from mlops_site.processes import die_with_parent
from mlops_site.reports import WorkerBoard
from mlops_site.worker_unit import ClusterUnit, Judge, Look

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
BEAT_SECONDS = 5.0
BEAT_TASK = "mlops_site.tasks.worker_beat"


class Command(BaseCommand):
    help = "Runs the queue's workers as one unit: whole, or ended to be started again."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cluster-of", type=int, help="for its own use: become the cluster")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["cluster_of"]:
            _run_cluster(watcher=options["cluster_of"])
            return
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        unit = ClusterUnit()
        try:
            fault = _watch(unit, stopping)
        finally:
            unit.kill()
        if fault:
            raise CommandError(f"The queue's cluster was ended: {fault}.")


def _run_cluster(*, watcher: int) -> None:
    """Becomes the main process of a cluster that lives no longer than `watcher`."""
    die_with_parent(watcher)
    pid_before_fork = [os.getpid()]

    def remember() -> None:
        pid_before_fork[0] = os.getpid()

    os.register_at_fork(before=remember, after_in_child=lambda: die_with_parent(pid_before_fork[0]))
    Cluster().start()


def _watch(unit: ClusterUnit, stopping: threading.Event) -> str:
    """Until it is to end, or something is wrong; then what."""
    judge, pulse, board = Judge(now=time.monotonic()), _Pulse(), WorkerBoard()
    while not stopping.wait(LOOK_SECONDS):
        look = unit.look()
        beat = pulse.take(look, at_once=judge.suspects)
        board.tell(look)
        if pulse.lost:
            judge.forgive_silence(now=time.monotonic())
        fault = judge.fault(look, beat=beat, now=time.monotonic())
        if fault:
            return fault
    unit.stop()
    board.take_down()
    return ""


class _Pulse:
    """Asks the cluster for a beat every few seconds, and reads when it last beat."""

    def __init__(self) -> None:
        self.lost = False
        self._asked_at = -BEAT_SECONDS
        self._asked_at_once = False

    def take(self, look: Look, *, at_once: bool) -> datetime | None:
        """When the last task that proves life ran; None when that is unknown."""
        hurry = at_once and not self._asked_at_once
        self._asked_at_once = at_once
        try:
            close_old_connections()
            if hurry or time.monotonic() - self._asked_at >= BEAT_SECONDS:
                self._ask(look)
            self.lost = False
            return Heartbeat.last(WORKER)
        except DatabaseError:
            log.warning("worker.database_away", exc_info=True)
            self.lost = True
            return None

    def _ask(self, look: Look) -> None:
        self._asked_at = time.monotonic()
        if look.busy:
            # No worker is free to say it, and that every one is at work can be seen.
            Heartbeat.beat(WORKER)
        elif look.complete:
            async_task(BEAT_TASK, save=False)
