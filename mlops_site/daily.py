"""What is done once a day, and what every few minutes: the supervisor asks, a worker does it.

A row remembers what was done for the day.
"""

import time
from datetime import datetime, timedelta

from django.utils import timezone
from django_q.tasks import async_task

from mlops_site.models import PRELOAD_PUT_OFF, RETENTION, Heartbeat
from training.services import environments

DAY = timedelta(days=1)
# The queue may lose a task, and one that found too much to do goes on at the next call.
ASK_AGAIN_SECONDS = 900.0
TASK = "mlops_site.tasks.retention"
ENVIRONMENTS_EVERY = timedelta(minutes=10)
ENVIRONMENTS_TASK = "mlops_site.tasks.environments"


class DailyWork:
    """When this process asked last; that it was done stands in the database."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    def ask(self) -> None:
        """Queues the daily work when it is due and nobody was asked lately."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < ASK_AGAIN_SECONDS:
            return
        if Heartbeat.was_within(RETENTION, DAY):
            return
        self._asked_at = now
        async_task(TASK, save=False)

    def ask_again(self) -> None:
        """The queue has lost its tasks."""
        self._asked_at = None


class EnvironmentWork:
    """What environments need: at the start, every few minutes, and when jobs made place for it."""

    def __init__(self) -> None:
        self._asked_at: datetime | None = None

    def ask(self) -> None:
        now = timezone.now()
        if self._asked_at is not None and not self._is_due(self._asked_at, now):
            return
        self._asked_at = now
        async_task(ENVIRONMENTS_TASK, save=False)

    def _is_due(self, asked_at: datetime, now: datetime) -> bool:
        if now - asked_at >= ENVIRONMENTS_EVERY:
            return True
        put_off = Heartbeat.last(PRELOAD_PUT_OFF)
        return put_off is not None and put_off >= asked_at and environments.is_idle()

    def ask_again(self) -> None:
        """The queue has lost its tasks."""
        self._asked_at = None
