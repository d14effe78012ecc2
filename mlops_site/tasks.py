"""The queue's own proof of life: a task that a worker runs and that does nothing but say so."""

from mlops_site.models import WORKER, Heartbeat


def worker_beat() -> None:
    Heartbeat.beat(WORKER)
