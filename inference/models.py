"""What model servers, their policies, aliases' histories and batches are: rows only, no rules.

Only `services` changes them; `states.py` has the diagram of a server's status, `batch/states.py`
that of a batch's.
"""

import uuid

from django.db import models
from django.db.models import Q

from inference.batch.states import Format, Status


class ModelServer(models.Model):
    """One server of a model version: where it answers, or why it does not."""

    class Status(models.TextChoices):
        STARTING = "starting", "Starting"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"
        STOPPING = "stopping", "Stopping"
        STOPPED = "stopped", "Stopped"

    model_name = models.CharField(max_length=250)
    version = models.CharField(max_length=20)
    # Several servers of a version are told apart by it; the first has the number 1.
    replica = models.PositiveSmallIntegerField(default=1)
    # Where the version's files came from: a number is given again when a model is made anew.
    source = models.CharField(max_length=500, blank=True, default="")
    status = models.CharField(max_length=20, choices=Status, default=Status.STARTING)
    phase = models.CharField(max_length=60, blank=True, default="")
    reason = models.CharField(max_length=40, blank=True, default="")
    error = models.TextField(blank=True, default="")
    # The last lines that its container printed, when it ended on its own.
    log_tail = models.TextField(blank=True, default="")
    # What it said of its model when it was ready: the schema is made from it.
    description = models.JSONField(null=True, blank=True)
    # The limits that its container was started with; 0: it never was.
    memory_mb = models.PositiveIntegerField(default=0)
    cpus = models.FloatField(default=0)
    memory_bytes = models.BigIntegerField(null=True, blank=True)
    # How often in a row it ended on its own, and until when it is not started again.
    crashes = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)
    engine = models.CharField(max_length=60, default="local")
    container_id = models.CharField(max_length=80, blank=True, default="")
    address = models.CharField(max_length=60, blank=True, default="")
    environment_key = models.CharField(max_length=64, blank=True, default="")
    # What the container answers to: an address may be given to another container later.
    token = models.CharField(max_length=64, blank=True, default="")
    claim = models.UUIDField(default=uuid.uuid4)
    claim_expires_at = models.DateTimeField(null=True, blank=True)
    # Which process starts it; of one that is known to be dead the claim need not run out.
    claim_owner = models.CharField(max_length=120, blank=True, default="")
    # When the supervisor asked a worker for what the status says; none: nobody was asked yet.
    queued_at = models.DateTimeField(null=True, blank=True)
    # When a worker was asked to look for its compact form; of a ready server only.
    form_asked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["model_name", "version", "replica"]
        indexes = [models.Index(fields=["status", "last_used_at"], name="server_status_used")]
        constraints = [
            models.UniqueConstraint(
                fields=["model_name", "version", "replica"], name="server_once_for_each_replica"
            ),
            models.CheckConstraint(
                condition=~Q(status="ready") | (~Q(address="") & ~Q(container_id="")),
                name="server_ready_has_address",
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | (~Q(reason="") & ~Q(error="")),
                name="server_failed_has_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_name} version {self.version} ({self.status})"


class ModelPolicy(models.Model):
    """How many servers the versions of a model have, and with which limits; null: the default."""

    model_name = models.CharField(max_length=250, unique=True)
    # Servers of the version that answers without a number, whether or not anybody asks.
    min_servers = models.PositiveSmallIntegerField(default=0)
    max_servers = models.PositiveSmallIntegerField(default=1)
    pinned = models.BooleanField(default=False)
    idle_seconds = models.PositiveIntegerField(null=True, blank=True)
    memory_mb = models.PositiveIntegerField(null=True, blank=True)
    cpus = models.FloatField(null=True, blank=True)
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=120, blank=True, default="")

    class Meta:
        ordering = ["model_name"]
        verbose_name_plural = "model policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(max_servers__gte=1) & Q(max_servers__gte=models.F("min_servers")),
                name="policy_min_below_max",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model_name}: {self.min_servers} to {self.max_servers} servers"


class AliasChange(models.Model):
    """What an alias named from a moment on; empty: it was taken away."""

    model_name = models.CharField(max_length=250)
    alias = models.CharField(max_length=255)
    version = models.CharField(max_length=20, blank=True, default="")
    previous = models.CharField(max_length=20, blank=True, default="")
    actor = models.CharField(max_length=120, blank=True, default="")
    # `set`, `deleted`, `rolled_back`, or `seen`: changed in MLflow itself and noticed by us.
    how = models.CharField(max_length=20)
    # Why, in the words of who did it.
    note = models.CharField(max_length=200, blank=True, default="")
    at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["model_name", "alias", "-id"], name="alias_newest")]

    def __str__(self) -> str:
        return f"{self.model_name}@{self.alias}: {self.version or 'nothing'}"


class BatchPrediction(models.Model):
    """A file of rows and the version that predicts them; its files are in `MLOPS_HOME/batches`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)
    phase = models.CharField(max_length=60, blank=True, default="")
    # Resolved when the batch was accepted; a number is given again when a model is made anew.
    model_name = models.CharField(max_length=250)
    version = models.CharField(max_length=20)
    source = models.CharField(max_length=500)
    file_name = models.CharField(max_length=200, blank=True, default="")
    input_format = models.CharField(max_length=10, choices=Format)
    input_bytes = models.BigIntegerField()
    output_format = models.CharField(max_length=10, choices=Format)
    output_bytes = models.BigIntegerField(null=True, blank=True)
    return_probabilities = models.BooleanField(default=False)
    include_inputs = models.BooleanField(default=False)
    escape_formulas = models.BooleanField(default=True)
    # What its container says; true once the batch is completed.
    rows_done = models.BigIntegerField(default=0)
    rows_total = models.BigIntegerField(null=True, blank=True)
    share_done = models.FloatField(default=0)
    reason = models.CharField(max_length=40, blank=True, default="")
    error = models.TextField(blank=True, default="")
    errors = models.JSONField(default=list, blank=True)
    log_tail = models.TextField(blank=True, default="")
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)
    # Of the container of the newest attempt; 0 and empty: there was none yet.
    memory_mb = models.PositiveIntegerField(default=0)
    cpus = models.FloatField(default=0)
    engine = models.CharField(max_length=60, default="local")
    container_id = models.CharField(max_length=80, blank=True, default="")
    environment_key = models.CharField(max_length=64, blank=True, default="")
    # From here on nobody holds the batch, until its container has ended.
    launched_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    claim = models.UUIDField(default=uuid.uuid4)
    claim_expires_at = models.DateTimeField(null=True, blank=True)
    claim_owner = models.CharField(max_length=120, blank=True, default="")
    # When the supervisor asked a worker for what is due; none: nobody was asked yet.
    queued_at = models.DateTimeField(null=True, blank=True)
    owner = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="batch_newest"),
            models.Index(fields=["status", "created_at"], name="batch_status_created"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"])
                | (~Q(reason="") & Q(ended_at__isnull=False)),
                name="batch_ended_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(launched_at=None) | ~Q(container_id=""),
                name="batch_launched_has_container",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_name} version {self.version}, {self.pk} ({self.status})"


class Tally(models.Model):
    """What one web process answered within one span of `seconds`, for charts over time.

    A row for each process: none adds to what another one writes. `latencies` counts answers by the
    steps of `metrics.SECONDS`.
    """

    begins_at = models.DateTimeField()
    seconds = models.PositiveIntegerField()
    process = models.UUIDField()
    answered = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    latencies = models.JSONField(default=list)

    class Meta:
        abstract = True


class PredictionTally(Tally):
    """Of all models together."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["seconds", "begins_at", "process"], name="prediction_tally_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.answered} predictions from {self.begins_at:%Y-%m-%d %H:%M}Z"


class VersionTally(Tally):
    """Of one version of a model; a version that nobody asked in a span has no row."""

    model_name = models.CharField(max_length=250)
    version = models.CharField(max_length=20)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_name", "version", "seconds", "begins_at", "process"],
                name="version_tally_once",
            )
        ]
        indexes = [models.Index(fields=["seconds", "begins_at"], name="version_tally_age")]

    def __str__(self) -> str:
        return f"{self.model_name} version {self.version}: {self.answered} predictions"
