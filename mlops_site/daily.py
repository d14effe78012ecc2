"""What is done once a day, and what every few minutes: the supervisor asks, a worker does it.

A row remembers what was done for the day.
"""

import time
from datetime import timedelta

from django_q.tasks import async_task

from mlops_site.models import RETENTION, Heartbeat

DAY = timedelta(days=1)
# The queue may lose a task, and one that found too much to do goes on at the next call.
ASK_AGAIN_SECONDS = 900.0
TASK = "mlops_site.tasks.retention"
ENVIRONMENTS_SECONDS = 600.0
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


class EnvironmentWork:
    """What environments need, at the start and again every few minutes."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    def ask(self) -> None:
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < ENVIRONMENTS_SECONDS:
            return
        self._asked_at = now
        async_task(ENVIRONMENTS_TASK, save=False)
