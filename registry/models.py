"""Rows that both rooms read: what takes no new work, who did what, and the feature store's."""

from typing import Any, NoReturn

from django.db import models
from django.db.models import Q
from django.utils import timezone

from registry.sources import Channel

ACTOR_CHARACTERS, ADDRESS_CHARACTERS, NAME_CHARACTERS = 150, 64, 300
WHY_CHARACTERS = 300


class Hold(models.Model):
    """What takes no new work, from when on, and by whose word. No row: it takes work.

    `name` is `admission`, the whole platform, or `engine:local`, one engine with its worker.
    """

    name = models.CharField(max_length=80, primary_key=True)
    by = models.CharField(max_length=ACTOR_CHARACTERS)
    since = models.DateTimeField()
    why = models.CharField(max_length=WHY_CHARACTERS, blank=True, default="")

    def __str__(self) -> str:
        return f"{self.name} by {self.by} since {self.since:%Y-%m-%d %H:%M:%S}Z"


class RowsStay(TypeError):
    """What was written down is not changed, and goes with its age only."""


class AuditRows(models.QuerySet["AuditEntry"]):
    """Added to and read; `forget` is for retention alone."""

    def update(self, **kwargs: Any) -> NoReturn:
        raise RowsStay("What was written down is not changed.")

    def delete(self) -> NoReturn:
        raise RowsStay("What was written down goes with its age only.")

    def forget(self) -> int:
        """How many went."""
        return int(self._raw_delete(self.db))


class AuditEntry(models.Model):
    """Who did what to what, when and from where: one act of a person, one line.

    `actor` is a name of the console, the address of a client of the API, or an account of this
    machine. `act` is one of `registry.audit.Act`, `kind` and `key` say what it was done to, `name`
    is what people call that.
    """

    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=ACTOR_CHARACTERS, blank=True, default="")
    channel = models.CharField(max_length=20, choices=Channel)
    address = models.CharField(max_length=ADDRESS_CHARACTERS, blank=True, default="")
    act = models.CharField(max_length=40)
    kind = models.CharField(max_length=30)
    key = models.CharField(max_length=NAME_CHARACTERS, blank=True, default="")
    name = models.CharField(max_length=NAME_CHARACTERS, blank=True, default="")
    detail = models.TextField(blank=True, default="")

    objects = AuditRows.as_manager()

    class Meta:
        verbose_name_plural = "audit entries"
        ordering = ["-at", "-id"]
        # Each ends in what the list is sorted by, so that a page of a million rows is read from
        # one of them alone.
        indexes = [
            models.Index(fields=["-at", "-id"], name="audit_newest"),
            models.Index(fields=["actor", "-at", "-id"], name="audit_by_actor"),
            models.Index(fields=["act", "-at", "-id"], name="audit_by_act"),
            models.Index(fields=["channel", "-at", "-id"], name="audit_by_channel"),
            models.Index(fields=["key", "-at", "-id"], name="audit_by_object"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}Z {self.actor} {self.act} {self.name or self.key}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise RowsStay("What was written down is not changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RowsStay("What was written down goes with its age only.")


class FeatureCatalog(models.Model):
    """The feature store as a worker described it last: one row.

    `mark` is what its files said then. `asked_at` is when a newer description was asked for, and
    `queued_at` when a worker was; `error` says why the last try came to nothing.
    """

    THE_ONE = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=THE_ONE, editable=False)
    asked_at = models.DateTimeField(null=True, blank=True)
    queued_at = models.DateTimeField(null=True, blank=True)
    described_at = models.DateTimeField(null=True, blank=True)
    tried_at = models.DateTimeField(null=True, blank=True)
    mark = models.CharField(max_length=100, blank=True, default="")
    registry_file = models.TextField(blank=True, default="")
    error = models.TextField(blank=True, default="")
    document = models.JSONField(null=True, blank=True)

    class Meta:
        permissions = [("look_up_features", "Can look up the features of an entity")]
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="feature_catalog_is_one"),
        ]

    def __str__(self) -> str:
        return "The feature store"


class Materialization(models.Model):
    """An order to bring what is new of some feature views into the online store, and its outcome.

    `outcome` has one entry for each view that was come to. While it runs, its worker says at
    `seen_at` that it still does; `claim` is whose it is, and guards every later write.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"

    feature_views = models.JSONField(default=list)
    state = models.CharField(max_length=20, choices=State, default=State.WAITING)
    outcome = models.JSONField(default=list, blank=True)
    error = models.TextField(blank=True, default="")
    asked_by = models.CharField(max_length=150, blank=True, default="")
    attempts = models.PositiveSmallIntegerField(default=0)
    claim = models.UUIDField(null=True, blank=True)
    asked_at = models.DateTimeField()
    queued_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["id"],
                condition=Q(state__in=["waiting", "running"]),
                name="materialization_open",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="running"), name="materialization_one_runs"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "running"], ended_at=None)
                | Q(state__in=["completed", "failed"], ended_at__isnull=False),
                name="materialization_ended_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{len(self.feature_views)} feature views ({self.state})"

    @property
    def is_open(self) -> bool:
        return self.state in (self.State.WAITING, self.State.RUNNING)
