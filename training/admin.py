"""Jobs for operators: to be read, searched and understood; what is done, services do.

Nothing here writes a row: a job cannot be changed by hand.
"""

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from rest_framework.exceptions import APIException

from registry import console
from registry.read_only_admin import ReadOnlyAdmin
from sandbox.image.lock_file import pins_in
from training.console import job, views
from training.models import (
    Attempt,
    BuiltEnvironment,
    Job,
    JobEvent,
    SandboxProof,
    WaitingContainer,
)
from training.services import environments
from training.services.environment_needs import models_in, users_of

# What people call an environment by.
NAMED_PACKAGES = ("scikit-learn", "pandas", "xgboost", "lightgbm", "torch")


def _link(job_id: uuid.UUID) -> SafeString:
    address = reverse("admin:training_job_change", args=[job_id])
    return format_html('<a href="{}">{}</a>', address, job_id)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Every page of it is our own; Django's part is who may see it."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """A list of a hundred jobs need not read a hundred scripts."""
        return super().get_queryset(request).defer("script", "environment_lock")

    def get_urls(self) -> list[URLPattern]:
        """Before Django's own, whose last one takes every path for a job's."""
        own = [
            path("now/", self.admin_site.admin_view(self.now_view), name="training_job_now"),
            path("ask/", self.admin_site.admin_view(self.ask_view), name="training_job_ask"),
            path("act/", self.admin_site.admin_view(self.act_view), name="training_job_act"),
            path(
                "<uuid:job_id>/now/",
                self.admin_site.admin_view(self.one_now_view),
                name="training_job_one_now",
            ),
        ]
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A list of our own: Django's counts all jobs, and sorts by what no index holds."""
        self._check_may_view(request)
        return views.jobs_page(request, self.admin_site.each_context(request))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one job: to be read, never to be sent."""
        self._check_may_view(request)
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        return job.job_page(request, self.admin_site.each_context(request), object_id)

    def one_now_view(self, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
        self._check_may_view(request)
        return job.job_now(request, str(job_id))

    def now_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.jobs_now(request)

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.ask(request, self.admin_site.each_context(request))

    def act_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.act(request)

    def _check_may_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "name", "job", "detail"]
    list_filter = ["name"]
    search_fields = ["job__id", "job__script_name", "detail"]
    list_select_related = ["job"]
    # As they were written, which is their order in time too, and that of an index.
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobEvent]:
        return super().get_queryset(request).select_related("job")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = [
        "job",
        "number",
        "engine",
        "lease_owner",
        "reason",
        "exit_code",
        "finished_at",
    ]
    search_fields = ["job__id", "container_id"]
    list_select_related = ["job"]
    exclude = ["lease_token", "mlflow_username"]


@admin.register(SandboxProof)
class SandboxProofAdmin(ReadOnlyAdmin):
    list_display = ["engine", "held", "checked_at", "self_test", "sandbox_checked_at"]
    fields = [
        *("engine", "held", "checked_at", "rules_at", "tried"),
        *("self_test", "sandbox_checked_at", "checked"),
    ]
    readonly_fields = ["held", "tried", "self_test", "checked"]

    @admin.display(description="Held")
    def held(self, proof: SandboxProof) -> str:
        return proof.problem or "yes"

    @admin.display(description="Self-test of this machine")
    def self_test(self, proof: SandboxProof) -> str:
        if proof.sandbox_checked_at is None:
            return "never run: manage.py sandbox check"
        return proof.sandbox_problem or "passed"

    @admin.display(description="What was tried from inside")
    def tried(self, proof: SandboxProof) -> SafeString | str:
        rows = (
            (
                "passed" if entry["passed"] else "FAILED",
                entry["network"],
                entry["what"],
                entry["address"],
                entry["got"],
            )
            for entry in proof.results
        )
        return format_html_join("", "{} from {}: {} ({}): {}<br>", rows) or "–"

    @admin.display(description="manage.py sandbox check")
    def checked(self, proof: SandboxProof) -> SafeString | str:
        rows = (
            (
                "passed" if row["passed"] else "FAILED",
                row["subject"],
                row["what"],
                row["wanted"],
                row["got"],
            )
            for row in proof.sandbox_rows
        )
        return format_html_join("", "{} {}: {}, wanted {}, got {}<br>", rows) or "–"


class EnvironmentsPage(ChangeList):
    """Who needs each of them is asked for all of them at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = _with_needs(list(self.result_list))


def _with_needs(shown: list[Any]) -> list[Any]:
    """Each with `users` and `models`, for the columns of that name."""
    users, models = users_of([one.key for one in shown]), models_in(shown)
    for one in shown:
        one.users, one.models = users[one.key], models[one.key]
    return shown


@admin.register(BuiltEnvironment)
class BuiltEnvironmentAdmin(ReadOnlyAdmin):
    list_display = [
        *("key", "shown_state", "packages", "size", "jobs", "used_by", "models_in_it"),
        *("last_used_at", "built_at", "asked"),
    ]
    list_filter = ["state"]
    search_fields = ["key", "lock"]
    ordering = ["-created_at"]
    actions = ["rebuild", "delete_folders"]
    fieldsets = [
        (None, {"fields": ["key", "shown_state", "asked", "error", "packages", "size"]}),
        ("Needed by", {"fields": ["jobs", "models_in_it", "used_by"]}),
        ("Times (UTC)", {"fields": ["created_at", "built_at", "build_seconds", "last_used_at"]}),
        ("Lock", {"fields": ["pins"]}),
        ("Last build", {"fields": ["output"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[BuiltEnvironment]:
        return super().get_queryset(request).defer("lock", "pylock", "build_log")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return EnvironmentsPage

    def get_object(self, *args: Any, **kwargs: Any) -> BuiltEnvironment | None:
        found = super().get_object(*args, **kwargs)
        return found and _with_needs([found])[0]

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("training.change_builtenvironment")

    @admin.action(description="Build again", permissions=["act"])
    def rebuild(self, request: HttpRequest, chosen: QuerySet[BuiltEnvironment]) -> None:
        _ask_each(request, chosen, ask=environments.ask_rebuild, told="will be built again")

    @admin.action(description="Delete from the disk", permissions=["act"])
    def delete_folders(self, request: HttpRequest, chosen: QuerySet[BuiltEnvironment]) -> None:
        _ask_each(request, chosen, ask=environments.ask_delete, told="will be deleted")

    @admin.display(description="State", ordering="state")
    def shown_state(self, environment: BuiltEnvironment) -> SafeString:
        return console.status(environment.state, environment.get_state_display())

    @admin.display(description="Size", ordering="size_bytes")
    def size(self, environment: BuiltEnvironment) -> str:
        size = f"{environment.size_bytes / 1_000_000:.0f} MB"
        return size if environment.size_is_known else "–"

    @admin.display(description="Models made in it")
    def models_in_it(self, environment: Any) -> str:
        return ", ".join(environment.models) or "none"

    @admin.display(description="In use by")
    def used_by(self, environment: Any) -> str:
        return ", ".join(environment.users) or "nobody"

    @admin.display(description="Packages")
    def pins(self, environment: BuiltEnvironment) -> SafeString:
        return format_html("<pre class='mlops-log'>{}</pre>", "\n".join(pins_in(environment.lock)))

    @admin.display(description="Output")
    def output(self, environment: BuiltEnvironment) -> SafeString:
        text = environment.build_log or "No build of it was seen."
        return format_html("<pre class='mlops-log'>{}</pre>", text)


def _ask_each(
    request: HttpRequest,
    chosen: QuerySet[BuiltEnvironment],
    *,
    ask: Callable[[str], BuiltEnvironment],
    told: str,
) -> None:
    for key in chosen.values_list("key", flat=True):
        try:
            ask(key)
        except APIException as refused:
            messages.warning(request, str(refused.detail))
        else:
            messages.success(request, f"{key} {told}.")


@admin.register(WaitingContainer)
class WaitingContainerAdmin(ReadOnlyAdmin):
    """Who finds none here and expects some reads in the operator's guide when there are any."""

    list_display = [
        "container",
        "shown_state",
        "packages",
        "given_to",
        "waits_since",
        "cpu_seconds",
    ]
    list_filter = ["state"]
    ordering = ["id"]
    fields = (
        "container",
        "shown_state",
        "packages",
        "given_to",
        "waits_since",
        "cpu_seconds",
        "environment_key",
        "engine",
        "image",
        "shape",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[WaitingContainer]:
        return super().get_queryset(request).select_related("attempt")

    @admin.display(description="State", ordering="state")
    def shown_state(self, waiting: WaitingContainer) -> SafeString:
        return console.status(waiting.state, waiting.get_state_display())

    @admin.display(description="Container")
    def container(self, waiting: WaitingContainer) -> str:
        return waiting.container_id[:12] or "being made"

    @admin.display(description="For the packages")
    def packages(self, waiting: WaitingContainer) -> SafeString:
        """A link to the environment, by the names of what is in it."""
        lock = environments.lock_of(waiting.environment_key)
        names = {pin.partition("==")[0] for pin in pins_in(lock)}
        shown = [name for name in NAMED_PACKAGES if name in names]
        address = reverse("admin:training_builtenvironment_change", args=[waiting.environment_key])
        return format_html('<a href="{}">{}</a>', address, ", ".join(shown) or "MLflow only")

    @admin.display(description="Given to")
    def given_to(self, waiting: WaitingContainer) -> SafeString | str:
        return _link(waiting.attempt.job_id) if waiting.attempt else "nobody yet"

    @admin.display(description="Made", ordering="created_at")
    def waits_since(self, waiting: WaitingContainer) -> str:
        return f"{waiting.created_at:%Y-%m-%d %H:%M:%S} UTC"
