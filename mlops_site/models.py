"""Heartbeats: when each process of the platform last said that it works."""

from datetime import timedelta

from django.db import models
from django.utils import timezone

BEAT_FRESH_SECONDS = 30


class Heartbeat(models.Model):
    """One row for each process kind (`worker`, `supervisor`)."""

    name = models.CharField(max_length=40, primary_key=True)
    beaten_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.beaten_at:%Y-%m-%d %H:%M:%S}Z"

    @classmethod
    def beat(cls, name: str) -> None:
        cls.objects.update_or_create(name=name, defaults={"beaten_at": timezone.now()})

    @classmethod
    def is_fresh(cls, name: str) -> bool:
        oldest = timezone.now() - timedelta(seconds=BEAT_FRESH_SECONDS)
        return cls.objects.filter(name=name, beaten_at__gte=oldest).exists()
