"""What a job is: rows only, no rules. Only `services` changes a job's state."""

import uuid

from django.db import models
from django.db.models import Q

from training.states import Phase, Reason, Status


class Job(models.Model):
    """One script that somebody asked to be run, and what became of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    script_name = models.CharField(max_length=100)
    script = models.TextField()
    experiment_name = models.CharField(max_length=250)
    model_name = models.CharField(max_length=250)
    requirements = models.JSONField(default=list)
    environment = models.JSONField(default=dict)
    tags = models.JSONField(default=dict)
    timeout_seconds = models.PositiveIntegerField()
    memory_mb = models.PositiveIntegerField()
    cpus = models.FloatField()

    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)
    phase = models.CharField(max_length=30, choices=Phase, default=Phase.WAITING)
    reason = models.CharField(max_length=40, choices=Reason, blank=True, default="")
    error = models.TextField(blank=True, default="")
    hint = models.TextField(blank=True, default="")
    environment_key = models.CharField(max_length=64, blank=True, default="")
    run_id = models.CharField(max_length=64, blank=True, default="")
    model_version = models.CharField(max_length=20, blank=True, default="")

    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["status", "created_at"], name="job_status_created"),
            models.Index(fields=["model_name"], name="job_model_name"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="job_status_known"),
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"], completed_at=None)
                | Q(status__in=["completed", "failed"], completed_at__isnull=False),
                name="job_ended_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | (~Q(reason="") & ~Q(error="")),
                name="job_failed_has_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.script_name} ({self.status})"

    @property
    def duration_seconds(self) -> float | None:
        """From the start of the work to its end; None while there is no end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return round((self.completed_at - self.started_at).total_seconds(), 3)


class Attempt(models.Model):
    """One try to run a job: who holds it, in which container, and the facts of its end."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField(default=1)
    engine = models.CharField(max_length=60, default="local")
    lease_owner = models.CharField(max_length=120)
    lease_token = models.UUIDField(default=uuid.uuid4)
    lease_expires_at = models.DateTimeField()
    container_id = models.CharField(max_length=80, blank=True, default="")
    container_started_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    intent = models.CharField(max_length=20, blank=True, default="")
    exit_code = models.IntegerField(null=True, blank=True)
    oom_killed = models.BooleanField(default=False)
    mlflow_username = models.CharField(max_length=80, blank=True, default="")
    readback = models.JSONField(default=dict, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["job", "number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_once"),
            models.UniqueConstraint(
                fields=["job"], condition=Q(finished_at=None), name="attempt_one_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job_id}"


class LogChunk(models.Model):
    """A piece of output. `offset` counts bytes of the whole stream: a gap is what was cut."""

    class Part(models.TextChoices):
        BUILD = "build"
        RUN = "run"

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="log_chunks")
    part = models.CharField(max_length=10, choices=Part)
    offset = models.PositiveBigIntegerField()
    size = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["attempt", "part", "offset"]
        constraints = [
            models.UniqueConstraint(fields=["attempt", "part", "offset"], name="log_chunk_once")
        ]

    def __str__(self) -> str:
        return f"{self.part} {self.offset}+{self.size} of {self.attempt_id}"


class JobEvent(models.Model):
    """What happened to a job, one line each, for operators. Never changed, never deleted alone."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    name = models.CharField(max_length=60)
    detail = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}Z {self.name}"
