"""Jobs for operators: to be read, searched and understood; nothing here changes a state."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from training import logs
from training.models import Attempt, Job, JobEvent
from training.states import Status

LOG_SHOWN_CHARACTERS = 200_000


class ReadOnlyAdmin(admin.ModelAdmin):
    """State belongs to the services: nothing is added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyInline(admin.TabularInline):
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EventInline(ReadOnlyInline):
    model = JobEvent
    fields = ["at", "name", "detail"]


class AttemptInline(ReadOnlyInline):
    model = Attempt
    readonly_fields = ["out_of_memory"]
    fields = [
        "number",
        "engine",
        "container_id",
        "container_started_at",
        "exit_code",
        "out_of_memory",
    ]

    @admin.display(description="Out of memory")
    def out_of_memory(self, attempt: Attempt) -> str:
        """In words: Django's red cross for "no" reads as an error."""
        return "yes" if attempt.oom_killed else "no"


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = [
        "script_name",
        "state",
        "reason",
        "registered",
        "created_at",
        "duration",
    ]
    list_filter = ["status", "reason"]
    search_fields = ["id", "script_name", "experiment_name", "model_name", "run_id", "error"]
    show_full_result_count = False
    inlines = [AttemptInline, EventInline]
    fieldsets = [
        (None, {"fields": ["id", "state", "phase", "reason", "error", "hint"]}),
        ("Asked for", {"fields": ["script_name", "experiment_name", "model_name"]}),
        ("Made", {"fields": ["run_id", "model_version", "environment_key"]}),
        ("Times (UTC)", {"fields": ["created_at", "started_at", "completed_at", "duration"]}),
        ("Output", {"fields": ["output"]}),
        (
            "Script and settings",
            {
                "classes": ["collapse"],
                "fields": [
                    "source",
                    "requirements",
                    "variable_names",
                    "tags",
                    "timeout_seconds",
                    "memory_mb",
                    "cpus",
                ],
            },
        ),
    ]

    @admin.display(description="Model", ordering="model_name")
    def registered(self, job: Job) -> str:
        return f"{job.model_name} {job.model_version}".strip()

    @admin.display(description="Status", ordering="status")
    def state(self, job: Job) -> SafeString:
        name = job.get_status_display()
        if job.status == Status.RUNNING:
            name = f"{name}: {job.get_phase_display().lower()}"
        return format_html("<span class='mlops-status mlops-{}'>{}</span>", job.status, name)

    @admin.display(description="Duration")
    def duration(self, job: Job) -> str:
        seconds = job.duration_seconds
        return "–" if seconds is None else f"{seconds:.1f} s"

    @admin.display(description="Output")
    def output(self, job: Job) -> SafeString:
        text = logs.text_of(job)[-LOG_SHOWN_CHARACTERS:]
        return format_html("<pre class='mlops-log'>{}</pre>", text or "Nothing printed yet.")

    @admin.display(description="Script")
    def source(self, job: Job) -> SafeString:
        return format_html("<pre class='mlops-log'>{}</pre>", job.script)

    @admin.display(description="Environment variables")
    def variable_names(self, job: Job) -> str:
        """Names only: a value may be a secret."""
        return ", ".join(sorted(job.environment)) or "none"


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "name", "job", "detail"]
    list_filter = ["name"]
    search_fields = ["job__id", "job__script_name", "detail"]
    list_select_related = ["job"]
    ordering = ["-at"]
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobEvent]:
        return super().get_queryset(request).select_related("job")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ["job", "number", "engine", "lease_owner", "exit_code", "finished_at"]
    search_fields = ["job__id", "container_id"]
    list_select_related = ["job"]
    exclude = ["lease_token", "mlflow_username"]
    show_full_result_count = False
