"""Model servers for operators: to be read, and stopped through the service that may do so."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from inference.batch.states import Format
from inference.models import AliasChange, BatchPrediction, ModelPolicy, ModelServer
from inference.services import pool
from registry import console
from registry.read_only_admin import ReadOnlyAdmin
from registry.shown_fields import code, printed, shown, whole_or_not, yes_or_no

SHORT_ID = 8


def _version_link(name: str, version: str) -> SafeString:
    address = reverse("admin:model_version", args=[name, version])
    return format_html('<a href="{}">{} {}</a>', address, console.visible(name), version)


def _format(value: str) -> str:
    return Format(value).label


class Limited:
    """What a container may have at most."""

    memory_limit = shown("memory_mb", "Memory, at most", console.size)
    cpu_limit = shown("cpus", "CPUs, at most", whole_or_not)


class Contained(Limited):
    """What is known of whatever has a container with a model in it."""

    why = shown("reason", "Reason", console.words)
    log = shown("log_tail", "Last lines", printed)
    container = shown("container_id", "Container", code)
    environment = shown("environment_key", "Environment", code)
    files = shown("source", "Files of the model", code)
    changed = shown("changed_at", "Changed", console.exactly)


@admin.register(ModelServer)
class ModelServerAdmin(Contained, ReadOnlyAdmin):
    list_display = ["model_name", "version", "replica", "state", "last_used_at", "age", "error"]
    list_filter = ["status", "reason"]
    search_fields = ["model_name", "version", "container_id", "environment_key", "error"]
    ordering = ["-changed_at"]
    groups = (
        (None, ("served", "replica", "state", "error", "why", "ended", "again", "log")),
        ("Limits and use", ("memory_limit", "cpu_limit", "memory")),
        ("Where it runs", ("engine", "container", "served_at", "environment", "files")),
        ("When", ("created", "ready", "used", "changed")),
    )
    actions = ["stop_servers"]
    empty_words = "A server starts when somebody asks a version of a model for the first time."

    ended = shown("crashes", "Ended by itself, times in a row")
    again = shown("not_before", "Not started before", console.exactly)
    memory = shown("memory_bytes", "Memory used", console.size_of_bytes)
    served_at = shown("address", "Address", code)
    created = shown("created_at", "Created", console.exactly)
    ready = shown("ready_at", "Ready", console.exactly)
    used = shown("last_used_at", "Used last", console.exactly)

    @admin.display(description="Model version")
    def served(self, server: ModelServer) -> SafeString:
        return _version_link(server.model_name, server.version)

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
    groups = ((None, ("model_name", "alias", "version", "previous", "done", "actor", "why", "at")),)
    done = shown("how", "How", console.words)
    why = shown("note", "Why")


@admin.register(ModelPolicy)
class ModelPolicyAdmin(Limited, ReadOnlyAdmin):
    list_display = ["model_name", "min_servers", "max_servers", "pinned", "memory_mb", "cpus"]
    search_fields = ["model_name"]
    empty_words = "A model that is pinned, or has limits of its own, is listed here."
    groups = (
        (None, ("model_name", "least", "most", "never_stopped")),
        ("Instead of what holds for all", ("idle", "memory_limit", "cpu_limit")),
        ("Changed", ("changed_at", "changed_by")),
    )
    idle = shown("idle_seconds", "Stopped when nobody asked for", console.span)
    never_stopped = shown("pinned", "Pinned", yes_or_no)
    least = shown("min_servers", "Servers, at least")
    most = shown("max_servers", "Servers, at most")


@admin.register(BatchPrediction)
class BatchPredictionAdmin(Contained, ReadOnlyAdmin):
    list_display = ["short", "model_name", "version", "state", "rows_done", "created_at", "error"]
    list_filter = ["status", "reason"]
    search_fields = ["id", "model_name", "container_id", "owner", "error"]
    empty_words = "A file that is sent to be predicted is listed here: POST /mlops/inference/batch."
    groups = (
        (
            None,
            (
                "whole_id",
                "predicted_by",
                "state",
                "rows",
                "error",
                "why",
                "refused",
                "again",
                "log",
            ),
        ),
        ("What was sent", ("file", "format_in", "size_in", "sender")),
        ("What comes of it", ("format_out", "size_out", "chances", "with_inputs", "escaped")),
        (
            "Where it runs",
            ("tries", "memory_limit", "cpu_limit", "engine", "container", "environment", "files"),
        ),
        ("When", ("created", "started", "launched", "deadline", "cancelled", "ended", "changed")),
    )
    whole_id = shown("id", "Batch", code)
    again = shown("not_before", "Not tried before", console.exactly)
    file = shown("file_name", "File")
    format_in = shown("input_format", "Format of the file", _format)
    size_in = shown("input_bytes", "Size", console.size_of_bytes)
    sender = shown("owner", "By")
    format_out = shown("output_format", "Format of the result", _format)
    size_out = shown("output_bytes", "Size of the result", console.size_of_bytes)
    chances = shown("return_probabilities", "Probabilities", yes_or_no)
    with_inputs = shown("include_inputs", "With the columns that were sent", yes_or_no)
    escaped = shown("escape_formulas", "Formulas made harmless", yes_or_no)
    tries = shown("attempts", "Tried, times")
    created = shown("created_at", "Sent", console.exactly)
    started = shown("started_at", "Begun", console.exactly)
    launched = shown("launched_at", "Container started", console.exactly)
    deadline = shown("deadline_at", "Ends at the latest", console.exactly)
    cancelled = shown("cancel_requested_at", "Cancelling asked for", console.exactly)
    ended = shown("ended_at", "Ended", console.exactly)

    @admin.display(description="Model version")
    def predicted_by(self, batch: BatchPrediction) -> SafeString:
        return _version_link(batch.model_name, batch.version)

    @admin.display(description="Rows")
    def rows(self, batch: BatchPrediction) -> str:
        done = console.grouped(batch.rows_done)
        return (
            done if batch.rows_total is None else f"{done} of {console.grouped(batch.rows_total)}"
        )

    @admin.display(description="What was refused")
    def refused(self, batch: BatchPrediction) -> SafeString:
        told = (
            (console.visible(error["field"]), console.visible(error["detail"]))
            for error in batch.errors
        )
        return format_html_join("", "<div><code>{}</code> {}</div>", told)

    @admin.display(description="Batch")
    def short(self, batch: BatchPrediction) -> str:
        """As much of its id as tells it apart for people; the search takes the whole."""
        return str(batch.pk)[:SHORT_ID]

    @admin.display(description="Status", ordering="status")
    def state(self, batch: BatchPrediction) -> SafeString:
        told = batch.get_status_display()
        text = f"{told} ({batch.phase})" if batch.phase else told
        return console.status(batch.status, text)
