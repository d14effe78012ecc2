"""Heartbeats: when each process of the platform last said that it works, and what it told."""

from datetime import datetime, timedelta
from typing import Any

from django.db import connection, models
from django.utils import timezone

BEAT_FRESH_SECONDS = 30
WORKER = "worker"
SUPERVISOR = "supervisor"
# Not a process: when the supervisor last reached the queue.
QUEUE = "queue"
# Not a process: when what is old was last cleared away.
RETENTION = "retention"
# Not a process: when a set that is to be built ahead was last put off, for a job.
PRELOAD_PUT_OFF = "preload_put_off"


class Installation(models.Model):
    """Whose database this is: one row, since two installations would undo each other's work."""

    THE_ONE = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=THE_ONE, editable=False)
    installation_id = models.CharField(max_length=60)
    made_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="installation_is_one"),
        ]
        # Of the installation as its operator set it up, and of nothing that is a row.
        permissions = [("view_settings", "Can see the settings in force")]

    def __str__(self) -> str:
        return self.installation_id

    @classmethod
    def owner(cls) -> str:
        """The id of the installation whose database this is; empty when it is nobody's yet."""
        if cls._meta.db_table not in connection.introspection.table_names():
            return ""
        return cls.objects.values_list("installation_id", flat=True).first() or ""

    @classmethod
    def claim(cls, installation_id: str) -> str:
        """Makes it ours unless it has an owner, who is returned."""
        row, _ = cls.objects.get_or_create(
            pk=cls.THE_ONE, defaults={"installation_id": installation_id}
        )
        return row.installation_id


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


class Report(models.Model):
    """What a process last told of itself, for people who look: nothing is decided by it.

    `name` is what kind of report it is and whose: `worker host:123`, `queue`.
    """

    name = models.CharField(max_length=120, primary_key=True)
    told = models.JSONField(default=dict)
    told_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.told_at:%Y-%m-%d %H:%M:%S}Z"

    @classmethod
    def tell(cls, name: str, told: dict[str, Any]) -> None:
        cls.objects.update_or_create(name=name, defaults={"told": told, "told_at": timezone.now()})
