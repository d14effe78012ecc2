"""Model servers for operators: to be read, and stopped through the service that may do so."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from inference.models import AliasChange, BatchPrediction, ModelPolicy, ModelServer
from inference.services import pool
from registry import console
from registry.read_only_admin import ReadOnlyAdmin

SHORT_ID = 8


@admin.register(ModelServer)
class ModelServerAdmin(ReadOnlyAdmin):
    list_display = ["model_name", "version", "replica", "state", "last_used_at", "age", "error"]
    list_filter = ["status", "reason"]
    search_fields = ["model_name", "version", "container_id", "environment_key", "error"]
    ordering = ["-changed_at"]
    fields = [
        "model_name",
        "version",
        "replica",
        "state",
        "error",
        "reason",
        "log_tail",
        "crashes",
        "not_before",
        "memory_mb",
        "cpus",
        "memory_bytes",
        "source",
        "engine",
        "container_id",
        "address",
        "environment_key",
        "created_at",
        "ready_at",
        "last_used_at",
        "changed_at",
    ]
    actions = ["stop_servers"]
    empty_words = "A server starts when somebody asks a version of a model for the first time."

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Reading does not include stopping: that takes the right to change servers."""
        return bool(request.user.has_perm("inference.change_modelserver"))

    @admin.display(description="Status", ordering="status")
    def state(self, server: ModelServer) -> SafeString:
        text = (
            f"{server.get_status_display()} ({server.phase})"
            if server.phase
            else (server.get_status_display())
        )
        return console.status(server.status, text)

    @admin.display(description="Age", ordering="created_at")
    def age(self, server: ModelServer) -> str:
        return timesince(server.ready_at or server.created_at, timezone.now(), depth=1)

    @admin.action(description="Stop server", permissions=["stop"])
    def stop_servers(self, request: HttpRequest, servers: QuerySet[ModelServer]) -> None:
        stopping = [server for server in servers if pool.stop(server.pk)]
        self.message_user(
            request,
            f"{len(stopping)} of {len(servers)} servers are stopping; the next request to a "
            "stopped model starts its server again.",
            messages.SUCCESS if stopping else messages.WARNING,
        )


@admin.register(AliasChange)
class AliasChangeAdmin(ReadOnlyAdmin):
    list_display = ["model_name", "alias", "version", "previous", "how", "actor", "note", "at"]
    list_filter = ["how"]
    empty_words = "Whoever says which version an alias names is listed here, with the one before."
    search_fields = ["model_name", "alias", "version", "actor"]


@admin.register(ModelPolicy)
class ModelPolicyAdmin(ReadOnlyAdmin):
    list_display = ["model_name", "min_servers", "max_servers", "pinned", "memory_mb", "cpus"]
    search_fields = ["model_name"]
    empty_words = "A model that is pinned, or has limits of its own, is listed here."


@admin.register(BatchPrediction)
class BatchPredictionAdmin(ReadOnlyAdmin):
    list_display = ["short", "model_name", "version", "state", "rows_done", "created_at", "error"]
    list_filter = ["status", "reason"]
    search_fields = ["id", "model_name", "container_id", "owner", "error"]
    empty_words = "A file that is sent to be predicted is listed here: POST /mlops/inference/batch."
    fields = [
        *("id", "model_name", "version", "state", "rows_done", "rows_total", "reason", "error"),
        *("errors", "log_tail", "attempts", "not_before", "file_name", "input_format"),
        *("input_bytes", "output_format", "output_bytes", "return_probabilities"),
        *("include_inputs", "escape_formulas", "memory_mb", "cpus", "source", "engine"),
        *("container_id", "environment_key", "owner", "created_at", "started_at", "launched_at"),
        *("deadline_at", "cancel_requested_at", "ended_at", "changed_at"),
    ]

    @admin.display(description="Batch")
    def short(self, batch: BatchPrediction) -> str:
        """As much of its id as tells it apart for people; the search takes the whole."""
        return str(batch.pk)[:SHORT_ID]

    @admin.display(description="Status", ordering="status")
    def state(self, batch: BatchPrediction) -> SafeString:
        told = batch.get_status_display()
        text = f"{told} ({batch.phase})" if batch.phase else told
        return console.status(batch.status, text)
