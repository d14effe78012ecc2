"""Jobs for operators: to be read, searched and understood; what is done, services do.

Nothing here writes a row: a job cannot be changed by hand.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from registry import console
from registry.read_only_admin import ReadOnlyAdmin
from registry.shown_fields import code, only_yes, shown
from sandbox.image.lock_file import pins_in
from training.console import build_log, events, history, job, run, saved, views
from training.console import environments as environments_pages
from training.console.checks import checks_of
from training.models import (
    Attempt,
    BuiltEnvironment,
    Job,
    JobEvent,
    SandboxProof,
    WaitingContainer,
)
from training.services import environments

# What people call an environment by.
NAMED_PACKAGES = ("scikit-learn", "pandas", "xgboost", "lightgbm", "torch")


def _link(job_id: uuid.UUID) -> SafeString:
    address = reverse("admin:training_job_change", args=[job_id])
    return format_html('<a href="{}">{}</a>', address, job_id)


def _passed(lines: Iterable[tuple[bool, str, str]]) -> SafeString:
    """A line for each of what was tried: whether it is as it must be, what it is, and how."""
    told = (
        (
            console.status("completed" if passed else "failed", what),
            "" if passed else "FAILED, ",
            console.visible(how),
        )
        for passed, what, how in lines
    )
    return format_html_join("", '<div>{} <span class="quiet">{}{}</span></div>', told)


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
            path("newer/", self.admin_site.admin_view(self.newer_view), name="training_job_newer"),
            path("save/", self.admin_site.admin_view(self.save_view), name="training_job_save"),
            path(
                "forget/", self.admin_site.admin_view(self.forget_view), name="training_job_forget"
            ),
            path(
                "<uuid:job_id>/now/",
                self.admin_site.admin_view(self.one_now_view),
                name="training_job_one_now",
            ),
            path(
                "<uuid:job_id>/history/",
                self.admin_site.admin_view(self.history_piece_view),
                name="training_job_history",
            ),
            path(
                "<uuid:job_id>/run/",
                self.admin_site.admin_view(self.run_piece_view),
                name="training_job_run",
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
        self._check_only_reads(request)
        return job.job_page(request, self.admin_site.each_context(request), object_id)

    def one_now_view(self, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
        self._check_may_view(request)
        return job.job_now(request, str(job_id))

    def history_piece_view(self, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
        self._check_may_view(request)
        return history.history_piece(request, job_id)

    def run_piece_view(self, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
        self._check_may_view(request)
        return run.run_piece(request, job_id)

    def now_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.jobs_now(request)

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.ask(request, self.admin_site.each_context(request))

    def act_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.act(request)

    def newer_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return views.jobs_newer(request)

    def save_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return saved.save(request)

    def forget_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return saved.forget(request)


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "name", "job", "detail"]
    groups = (
        (None, ("job", "at", "name", "status", "phase", "attempt", "actor", "reason", "detail")),
    )
    empty_words = "Each step of a job is written down here: accepted, taken, ended, and by whom."
    list_filter = [events.NameFilter]
    search_fields = ["job__script_name", "detail"]
    search_help_text = events.SEARCH_HELP
    list_select_related = ["job"]
    # As they were written, which is their order in time too, and that of an index.
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobEvent]:
        return super().get_queryset(request).select_related("job")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[JobEvent], search_term: str
    ) -> tuple[QuerySet[JobEvent], bool]:
        """Words are looked for in so many events as one can wait for."""
        if not search_term:
            return queryset, False
        found = events.of_job(queryset, search_term)
        if found is not None:
            return found, False
        recent = queryset.filter(pk__in=events.newest().values("pk"))
        return super().get_search_results(request, recent, search_term)


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = [
        "job",
        "number",
        "engine",
        "lease_owner",
        "why",
        "exit_code",
        "finished_at",
    ]
    search_fields = ["container_id"]
    search_help_text = "The whole id of a job or of a container."
    # As they began.
    ordering = ["-id"]
    empty_words = "Each try to run a job is listed here, with the container that it had."
    list_select_related = ["job"]
    groups = (
        (None, ("job", "number", "why", "exit_code", "out_of_memory", "last_words")),
        ("What it used", ("memory", "processor", "output")),
        ("Where it ran", ("engine", "worker", "container")),
        ("When", ("created", "container_started", "first_output", "deadline", "lease")),
        ("How it ended", ("decided", "container_ended", "finished")),
        ("How it was locked down", ("locked_down",)),
    )
    out_of_memory = shown("oom_killed", "Memory ran out", only_yes)
    memory = shown("peak_memory_bytes", "Memory at its peak", console.size_of_bytes)
    processor = shown("cpu_seconds", "Processor time", console.span)
    output = shown("log_bytes", "Printed", console.size_of_bytes)
    worker = shown("lease_owner", "Worker", code)
    container = shown("container_id", "Container", code)
    created = shown("created_at", "Begun", console.exactly)
    container_started = shown("container_started_at", "Container started", console.exactly)
    first_output = shown("first_output_at", "First line", console.exactly)
    deadline = shown("deadline_at", "Ends at the latest", console.exactly)
    container_ended = shown("container_ended_at", "Container ended", console.exactly)
    finished = shown("finished_at", "Finished", console.exactly)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Attempt], search_term: str
    ) -> tuple[QuerySet[Attempt], bool]:
        """By what has an index."""
        if not search_term:
            return queryset, False
        found = events.of_job(queryset, search_term)
        return queryset.filter(container_id=search_term) if found is None else found, False

    @admin.display(description="Its last words")
    def last_words(self, attempt: Attempt) -> str | None:
        if attempt.output_is_whole:
            return None
        return "may be missing: the engine was down when the script ended"

    @admin.display(description="We decided")
    def decided(self, attempt: Attempt) -> SafeString | None:
        if attempt.intent_at is None:
            return None
        return format_html(
            "{}, {}", attempt.get_intent_display(), console.exactly(attempt.intent_at)
        )

    @admin.display(description="The worker holds it until")
    def lease(self, attempt: Attempt) -> SafeString | None:
        return console.exactly(attempt.lease_expires_at) if attempt.finished_at is None else None

    @admin.display(description="As the engine read it back")
    def locked_down(self, attempt: Attempt) -> SafeString:
        checks = checks_of(attempt.readback)
        return _passed((one.holds, one.what, one.told) for one in checks)

    @admin.display(description="Reason", ordering="reason")
    def why(self, attempt: Attempt) -> str | None:
        return console.words(attempt.reason) if attempt.reason else None


@admin.register(SandboxProof)
class SandboxProofAdmin(ReadOnlyAdmin):
    list_display = ["engine", "held", "checked_at", "self_test", "sandbox_checked_at"]
    empty_words = "The supervisor tries what jobs can reach when it starts, and often after that."
    groups = (
        (None, ("engine", "held")),
        ("What a job can reach", ("tried_at", "ruled_at", "tried")),
        ("What a container may", ("self_test", "tested_at", "checked")),
    )
    tried_at = shown("checked_at", "Tried", console.exactly)
    ruled_at = shown("rules_at", "Rules written", console.exactly)
    tested_at = shown("sandbox_checked_at", "Tested", console.exactly)

    @admin.display(description="Held")
    def held(self, proof: SandboxProof) -> str:
        return proof.problem or "yes"

    @admin.display(description="Self-test of this machine")
    def self_test(self, proof: SandboxProof) -> str:
        if proof.sandbox_checked_at is None:
            return "never run: manage.py sandbox check"
        return proof.sandbox_problem or "passed"

    @admin.display(description="Tried from inside")
    def tried(self, proof: SandboxProof) -> SafeString:
        return _passed(
            (
                entry["passed"],
                f"{entry['what']} ({entry['address']})",
                f"from {entry['network']}: {entry['got']}",
            )
            for entry in proof.results
        )

    @admin.display(description="Tested by manage.py sandbox check")
    def checked(self, proof: SandboxProof) -> SafeString:
        return _passed(
            (
                row["passed"],
                f"{row['subject']}: {row['what']}",
                row["got"] if row["passed"] else f"wanted {row['wanted']}, got {row['got']}",
            )
            for row in proof.sandbox_rows
        )


@admin.register(BuiltEnvironment)
class BuiltEnvironmentAdmin(ReadOnlyAdmin):
    """Every page of it is our own; Django's part is who may see it."""

    def get_urls(self) -> list[URLPattern]:
        """Before Django's own, whose last one takes every path for an environment's."""
        view, name = self.admin_site.admin_view, "training_builtenvironment"
        own = [
            path("now/", view(self.now_view), name=f"{name}_now"),
            path("ask/", view(self.ask_view), name=f"{name}_ask"),
            path("act/", view(self.act_view), name=f"{name}_act"),
            path("<str:key>/now/", view(self.one_now_view), name=f"{name}_one_now"),
            path("<str:key>/log/", view(self.log_view), name=f"{name}_log"),
            path("<str:key>/lock/<str:file>", view(self.lock_view), name=f"{name}_lock"),
        ]
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.list_page(request, self.admin_site.each_context(request))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one: to be read, never to be sent."""
        self._check_only_reads(request)
        context = self.admin_site.each_context(request)
        return environments_pages.one_page(request, context, unquote(object_id))

    def now_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.list_now(request)

    def one_now_view(self, request: HttpRequest, key: str) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.one_now(request, key)

    def log_view(self, request: HttpRequest, key: str) -> HttpResponse:
        self._check_may_view(request)
        return build_log.answer(request, key)

    def lock_view(self, request: HttpRequest, key: str, file: str) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.lock_file(key, file)

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.ask(request, self.admin_site.each_context(request))

    def act_view(self, request: HttpRequest) -> HttpResponse:
        self._check_may_view(request)
        return environments_pages.act(request)


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
    empty_words = (
        "Containers that wait for a job are listed here: MLOPS_WAITING_CONTAINERS of them."
    )
    ordering = ["id"]
    groups = (
        (None, ("container", "shown_state", "packages", "given_to", "waits_since", "processor")),
        ("Who may have it", ("environment_key", "engine", "image", "shape")),
    )
    processor = shown("cpu_seconds", "Processor time", console.span)

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
    def waits_since(self, waiting: WaitingContainer) -> SafeString:
        return console.exactly(waiting.created_at)
