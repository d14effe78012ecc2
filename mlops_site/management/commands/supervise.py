"""`manage.py supervise`: watches containers and rows, and queues what is due; keeps no state."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand
from django.db import close_old_connections
from django_q.tasks import async_task

from inference import services as inference_services
from mlops_site.models import Heartbeat
from sandbox.engine import Engine
from training.supervisor import JobSupervisor

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
SLOW_SECONDS = 5.0


class Command(BaseCommand):
    help = "Follows running containers: logs, exits, deadlines, orphans."

    def handle(self, *args: Any, **options: Any) -> None:
        stopping, wake = threading.Event(), threading.Event()

        def stop(*_: Any) -> None:
            stopping.set()
            wake.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        jobs = JobSupervisor(engine=Engine.connect(), wake=wake)
        slow_at = 0.0
        while not stopping.is_set():
            wake.clear()
            _guarded(jobs.tick)
            _guarded(inference_services.dispatch)
            if time.monotonic() >= slow_at:
                slow_at = time.monotonic() + SLOW_SECONDS
                for look in (_beat, jobs.reconcile, inference_services.reconcile):
                    _guarded(look)
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
