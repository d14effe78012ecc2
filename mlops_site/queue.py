"""The queue in the database, as django-q2 has it, but for the wait: a new task rings a bell."""

import time
from typing import Any

from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf

from training.doorbell import QUEUE_BELL, Listener


class BellORM(ORM):
    """One process of the cluster takes tasks; it listens. Whoever queues one rings.

    A task that nobody rang for, such as one that comes due again, is found at the next look.
    """

    _listener: Listener | None = None

    def enqueue(self, task: str) -> Any:
        """The task's id in the queue."""
        queued = super().enqueue(task)
        QUEUE_BELL.ring_on_commit()
        return queued

    def dequeue(self) -> list[tuple[int, str]] | None:
        """Some tasks, or None after a wait without any."""
        due = self.get_connection().filter(key=self.list_key, lock__lt=timezone.now())
        if due.exists():
            return super().dequeue()
        self._wait()
        return None

    def _wait(self) -> None:
        try:
            self._listener = self._listener or Listener(QUEUE_BELL)
        except OSError:
            # Another cluster of the installation, which is about to end, listens still.
            time.sleep(Conf.POLL)
            return
        self._listener.wait(Conf.POLL)
