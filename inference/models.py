"""What a model server is: rows only, no rules. Only `services` changes a server's state.

(none) ──▶ starting ──▶ ready ──▶ stopping ──▶ stopped
              ▲  │        │                       │
              │  └▶ failed └──(container gone)──▶ │
              └───────┴───────────────────────────┘
"""

import uuid

from django.db import models
from django.db.models import Q


class ModelServer(models.Model):
    """The server of one model version: where it answers, or why it does not."""

    class Status(models.TextChoices):
        STARTING = "starting", "Starting"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"
        STOPPING = "stopping", "Stopping"
        STOPPED = "stopped", "Stopped"

    model_name = models.CharField(max_length=250)
    version = models.CharField(max_length=20)
    # Where the version's files came from: a number is given again when a model is made anew.
    source = models.CharField(max_length=500, blank=True, default="")
    status = models.CharField(max_length=20, choices=Status, default=Status.STARTING)
    phase = models.CharField(max_length=60, blank=True, default="")
    reason = models.CharField(max_length=40, blank=True, default="")
    error = models.TextField(blank=True, default="")
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
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["model_name", "version"]
        indexes = [models.Index(fields=["status", "last_used_at"], name="server_status_used")]
        constraints = [
            models.UniqueConstraint(fields=["model_name", "version"], name="server_once"),
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
