"""The queue on the database and on Redis; both outlive that the server behind them goes away.

A task only wakes a worker: what is due stands in rows, and the supervisor asks again for what was
lost. So a task that cannot be queued now is dropped with a word in the log, and whoever asks for
it never waits for a server that is away. django-q2's own brokers let their reader die instead.
"""

import functools
import logging
import secrets
import time
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connections
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.brokers.orm import ORM
from django_q.brokers.redis_broker import Redis
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import BadSignature, SignedPackage
from redis.backoff import NoBackoff
from redis.retry import Retry

from registry.doorbell import QUEUE_BELL, Listener

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
AWAY_SECONDS = 1.0
TASKS_SHOWN = 20
ABOUT_CHARACTERS = 80
Tasks = list[tuple[int | None, bytes]]


class QueueWatch:
    """For the supervisor: notices when the queue has lost its tasks, such as a Redis that was
    started again or emptied, so that whoever waits for them need not wait out its patience."""

    def __init__(self) -> None:
        self._known = ""

    def has_forgotten(self) -> bool:
        """Since the last look, or before the first one. While the queue is away it has not yet."""
        broker = get_broker()
        if not isinstance(broker, RedisQueue):
            return False  # the rows are the queue
        try:
            memory, was_empty = broker.memory()
        except redis.RedisError:
            return False
        before, self._known = self._known, memory
        return was_empty or before not in ("", memory)


class OrmQueue(ORM):
    """Tasks as rows. One process of the cluster takes them and listens; whoever queues one rings.

    A task that nobody rang for, such as one that comes due again, is found at the next look.
    """

    _listener: Listener | None = None

    def enqueue(self, task: str) -> Any:
        """The task's id in the queue."""
        queued = super().enqueue(task)
        QUEUE_BELL.ring_on_commit()
        return queued

    def dequeue(self) -> Tasks | None:
        """Some tasks, or None after a wait without any."""
        try:
            return self._take()
        except DatabaseError as error:
            log.warning("queue.database_away %s", type(error).__name__)
            connections[Conf.ORM].close()
            time.sleep(AWAY_SECONDS)  # nothing tells that a server is back
            return None

    def _take(self) -> Tasks | None:
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


class RedisQueue(Redis):
    """Tasks in a list of Redis; who waits for one waits in Redis (`BLPOP`), and polls nothing."""

    _away_until = 0.0

    @staticmethod
    def get_connection(list_key: str | None = None) -> "redis.Redis":
        """One client for the whole process, which opens connections as it needs them."""
        return _client(settings.REDIS_URL)

    def enqueue(self, task: bytes) -> int | None:
        """None when Redis is away; for a moment after that it is not even asked."""
        if time.monotonic() < RedisQueue._away_until:
            return None
        try:
            return int(self.connection.rpush(self.list_key, task))
        except redis.RedisError as error:
            RedisQueue._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("queue.task_dropped: Redis is away (%s)", type(error).__name__)
            return None

    def dequeue(self) -> Tasks | None:
        try:
            return super().dequeue()
        except redis.RedisError as error:
            log.warning("queue.redis_away %s", type(error).__name__)
            time.sleep(AWAY_SECONDS)  # nothing tells that a server is back
            return None

    def ping(self) -> bool:
        try:
            return bool(super().ping())
        except redis.RedisError:
            return False

    def memory(self) -> tuple[str, bool]:
        """What changes when the server loses what it holds, and whether our mark was not there.

        A server that is emptied loses the mark; one that is started again, with whatever it had
        saved, has another id. Raises RedisError.
        """
        mark = f"{self.list_key}:mark"
        was_empty = bool(self.connection.set(mark, secrets.token_hex(8), nx=True))
        kept = self.connection.get(mark) or b""
        return f"{self.connection.info('server')['run_id']} {kept!r}", was_empty

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Nobody reads django-q2's own figures, twice a second; a guard that waits is no guard."""


@functools.cache
def _client(url: str) -> "redis.Redis":
    """A kept connection that broke is opened again once; more patience has who asks again."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )


# -- what is queued, in words ---------------------------------------------------------------------
def queue_contents() -> dict[str, Any]:
    """How much waits and what comes first; for a process that holds the queue's key.

    `tasks` are the oldest few: `taken_at` is when a worker was given one that has not said yet that
    it is done, `again_at` when it will be given out once more, `again` whether it was before.
    """
    broker = get_broker()
    try:
        if isinstance(broker, RedisQueue):
            return _contents_of_redis(broker)
        return _contents_of_rows()
    except redis.RedisError:
        return {"kind": "Redis", "away": True, "waiting": None, "taken": None, "tasks": []}


def _contents_of_redis(broker: RedisQueue) -> dict[str, Any]:
    """A task that was taken is no longer there: Redis gives none out twice."""
    payloads = broker.connection.lrange(broker.list_key, 0, TASKS_SHOWN - 1)
    tasks = [{**_task_in(payload), "taken_at": None, "again": False} for payload in payloads]
    return {"kind": "Redis", "waiting": broker.queue_size(), "taken": None, "tasks": tasks}


def _contents_of_rows() -> dict[str, Any]:
    now = timezone.now()
    taken, waiting = OrmQ.objects.filter(lock__gt=now), OrmQ.objects.exclude(lock__gt=now)
    # What was taken first: only there something can be lost.
    rows = [*taken.order_by("lock")[:TASKS_SHOWN], *waiting.order_by("id")[:TASKS_SHOWN]]
    return {
        "kind": "database",
        "waiting": waiting.count(),
        "taken": taken.count(),
        "tasks": [_row_task(row, now) for row in rows[:TASKS_SHOWN]],
    }


def _row_task(row: OrmQ, now: datetime) -> dict[str, Any]:
    """Its lock is when it was queued; once it was taken, when it is given out again."""
    task = _task_in(row.payload)
    lock, patience = row.lock or now, timedelta(seconds=Conf.RETRY)
    queued_at = datetime.fromisoformat(task["queued_at"]) if task["queued_at"] else lock
    is_taken = lock > now
    began = lock - patience if is_taken else lock
    return {
        **task,
        "taken_at": began.isoformat() if is_taken else None,
        "again_at": lock.isoformat() if is_taken else None,
        "again": began - queued_at >= patience,
    }


def _task_in(payload: Any) -> dict[str, Any]:
    try:
        task = SignedPackage.loads(payload)
    except (BadSignature, TypeError):
        return {"func": "unreadable", "about": "", "queued_at": None}
    about = ", ".join(str(argument) for argument in task.get("args", ()))
    queued_at = task.get("started")
    return {
        "func": str(task["func"]),
        "about": about[:ABOUT_CHARACTERS],
        "queued_at": queued_at.isoformat() if queued_at else None,
    }
