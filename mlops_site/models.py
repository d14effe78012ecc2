"""Heartbeats: when each process of the platform last said that it works."""

from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

BEAT_FRESH_SECONDS = 30
WORKER = "worker"
SUPERVISOR = "supervisor"
# Not a process: when what is old was last cleared away.
RETENTION = "retention"


class Heartbeat(models.Model):
    """One row for each process kind (`worker`, `supervisor`), and one for daily work."""

    name = models.CharField(max_length=40, primary_key=True)
    beaten_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.beaten_at:%Y-%m-%d %H:%M:%S}Z"

    @property
    def age_seconds(self) -> float:
        return max(0.0, (timezone.now() - self.beaten_at).total_seconds())

    @classmethod
    def beat(cls, name: str) -> None:
        cls.objects.update_or_create(name=name, defaults={"beaten_at": timezone.now()})

    @classmethod
    def last(cls, name: str) -> datetime | None:
        """When it last beat; None when it never did."""
        return cls.objects.filter(name=name).values_list("beaten_at", flat=True).first()

    @classmethod
    def is_fresh(cls, name: str) -> bool:
        return cls.was_within(name, timedelta(seconds=BEAT_FRESH_SECONDS))

    @classmethod
    def was_within(cls, name: str, period: timedelta) -> bool:
        """Whether the last beat is no older than `period`."""
        return cls.objects.filter(name=name, beaten_at__gte=timezone.now() - period).exists()
