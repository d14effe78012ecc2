"""`manage.py supervise`: watches containers and rows, and queues what is due; keeps no state.

One acts for an engine at a time; a second one waits until the first one's lease is over.
"""

import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections
from django_q.tasks import async_task

from inference import services as inference_services
from mlops_site.models import Heartbeat
from sandbox.engine import Engine
from training.services import observe
from training.services.claim import LOCAL_ENGINE
from training.supervisor import JobSupervisor

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
SLOW_SECONDS = 5.0
HOLD_SECONDS = 3.0
TURN_SECONDS = 1.0


class Command(BaseCommand):
    help = "Follows running containers: logs, exits, deadlines, orphans."

    def handle(self, *args: Any, **options: Any) -> None:
        stopping, wake = threading.Event(), threading.Event()

        def stop(*_: Any) -> None:
            stopping.set()
            wake.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        holder = uuid.uuid4()
        if not _wait_for_turn(holder, stopping):
            return
        _supervise(holder, stopping, wake)
        observe.release_engine(LOCAL_ENGINE, holder)


def _wait_for_turn(holder: uuid.UUID, stopping: threading.Event) -> bool:
    """Until no other supervisor acts for this engine; False when this one is to end."""
    while not observe.hold_engine(LOCAL_ENGINE, holder):
        log.info("supervisor.waits")
        if stopping.wait(TURN_SECONDS):
            return False
    return True


def _supervise(holder: uuid.UUID, stopping: threading.Event, wake: threading.Event) -> None:
    jobs = JobSupervisor(engine=Engine.connect(), wake=wake)
    slow_at = held_at = 0.0
    while not stopping.is_set():
        wake.clear()
        if time.monotonic() - held_at >= HOLD_SECONDS:
            if not observe.hold_engine(LOCAL_ENGINE, holder):
                raise CommandError("Another supervisor has taken over.")
            held_at = time.monotonic()
        _guarded(jobs.tick)
        _guarded(inference_services.dispatch)
        if time.monotonic() >= slow_at:
            slow_at = time.monotonic() + SLOW_SECONDS
            for look in (_beat, jobs.measure, jobs.reconcile, inference_services.reconcile):
                _guarded(look)
        elif jobs.reconcile_due:
            _guarded(jobs.reconcile)
        wake.wait(TICK_SECONDS)


def _beat() -> None:
    Heartbeat.beat("supervisor")
    async_task("mlops_site.tasks.worker_beat", save=False)


def _guarded(look: Callable[[], None]) -> None:
    """One of the two loop guards: whatever fails is logged and looked at again at the next tick."""
    try:
        close_old_connections()
        look()
    except Exception:  # noqa: BLE001
        log.exception("supervisor.look_failed")
