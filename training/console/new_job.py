"""Starting a job from the browser: a form, what would become of it meanwhile, and sending it.

The same form, filled from a job, runs that one again with changes. The values of its variables are
kept by their names and never come to a page. With a script in the page, what is refused comes back
in pieces, and nothing that was typed is lost; without one, the whole form does, but for secrets.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST
from rest_framework.exceptions import APIException

from training.api.submission import Submission
from training.api.upload_problems import UploadRejected
from training.console import bulk, dry_run
from training.console.drafts import (
    LIMITS,
    Draft,
    draft_of_example,
    draft_of_job,
    draft_sent,
    submission_from,
)
from training.console.dry_run import BAD, Problem, Verdict
from training.console.examples import EXAMPLES, QUICK_START
from training.console.views import plain_names
from training.models import Job
from training.reference import job_limits
from training.rights import may_prioritize, may_send, may_use_values
from training.services.submit import Client, submit
from training.states import Network, Priority

PAGE = "admin:training_job_change"
LIMIT_WORDS = {
    "timeout": "Time",
    "memory_mb": "Memory",
    "cpus": "CPUs",
    "pids": "Processes",
    "scratch_mb": "Scratch",
    "gpus": "GPUs",
}
SHORT_UNITS = {"seconds": "s", "MiB": "MiB"}
NETWORK_WORDS = {Network.INTERNET: "the internet", Network.NONE: "MLflow only"}
# As many as a page of the list: names to fill in, not all that there are.
LOOKED_THROUGH = 50


@dataclass(frozen=True)
class LimitField:
    """One limit with the bounds that the API publishes."""

    name: str
    words: str
    unit: str
    least: float
    most: float
    value: str
    problems: Sequence[Problem] = ()

    @property
    def bounds(self) -> str:
        """`64 to 16384 MiB`."""
        if self.most == 0:
            return "none here"
        return f"{self.least:g} to {self.most:.10g} {self.unit}".strip()


def new_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """Filled with an example, or with the job that `from` names.

    Raises Http404 for a job or an example that there is none of, PermissionDenied.
    """
    _check_may_send(request)
    first = _first(request.GET.get("from", ""))
    if first is not None:
        return _form(request, context, draft_of_job(first, person=request.user), first=first)
    example = EXAMPLES.get(request.GET.get("example", QUICK_START.name))
    if example is None:
        raise Http404("There is no such example.")
    return _form(request, context, draft_of_example(example), first=None, example=example.name)


@require_POST
def dry_run_piece(request: HttpRequest) -> HttpResponse:
    """What would become of what is written so far; nothing is kept."""
    _check_may_send(request)
    verdict = dry_run.look(
        draft_sent(request.POST),
        first=_first(request.POST.get("first", "")),
        person=request.user,
        settled=request.POST.get("settled", ""),
        address=request.build_absolute_uri("/"),
    )
    return _told(request, verdict)


@require_POST
def send(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """On to the job's page; or what is wrong, beside what was typed."""
    _check_may_send(request)
    first = _first(request.POST.get("first", ""))
    draft = draft_sent(request.POST)
    try:
        submission = submission_from(draft, first=first, person=request.user)
        accepted = submit(submission, client=_client(request, submission), rerun_of=first)
    except UploadRejected as rejected:
        verdict = dry_run.refusal(rejected.errors, draft)
    except APIException as refused:
        verdict = Verdict(f"{refused.detail} {getattr(refused, 'hint', '')}".strip(), BAD, [], [])
    else:
        if accepted.replayed:
            messages.warning(request, "This form was sent before: this is the job that it made.")
        return _on_to(request, accepted.job)
    if "HX-Request" in request.headers:
        return _told(request, verdict)
    return _form(request, context, draft, first=first, verdict=verdict)


@require_POST
def run_example(request: HttpRequest) -> HttpResponse:
    """The quick start's own script, as one would send it. Raises PermissionDenied."""
    _check_may_send(request)
    draft = draft_of_example(QUICK_START)
    submission = submission_from(draft, first=None, person=request.user)
    try:
        accepted = submit(submission, client=Client(owner=request.user.get_username()))
    except APIException as refused:
        messages.error(request, str(refused.detail))
        return HttpResponseRedirect(reverse("admin:index"))
    return HttpResponseRedirect(reverse(PAGE, args=[accepted.job.pk]))


def _on_to(request: HttpRequest, job: Job) -> HttpResponse:
    address = reverse(PAGE, args=[job.pk])
    if "HX-Request" in request.headers:
        return HttpResponse(headers={"HX-Redirect": address})
    return HttpResponseRedirect(address)


def _told(request: HttpRequest, verdict: Verdict) -> HttpResponse:
    return render(request, "console/new_job_told.html", {"verdict": verdict, "oob": True})


def _client(request: HttpRequest, submission: Submission) -> Client:
    """A button that is pressed twice makes one job; a form that was changed in between another."""
    told = hashlib.sha256(repr(submission).encode()).hexdigest()
    key = f"console-{request.POST.get('key', '')[:32]}-{told[:32]}"
    return Client(owner=request.user.get_username(), idempotency_key=key, body_hash=told)


def _check_may_send(request: HttpRequest) -> None:
    if not may_send(request.user):
        raise PermissionDenied


def _first(job_id: str) -> Job | None:
    """Raises Http404 for a job that is named and not there (any more)."""
    if not job_id:
        return None
    known: uuid.UUID | None = bulk.id_of(job_id)
    job = Job.objects.filter(pk=known).first() if known else None
    if job is None:
        raise Http404("There is no such job.")
    return job


# -- the form --------------------------------------------------------------------------------------
def _form(
    request: HttpRequest,
    context: dict[str, Any],
    draft: Draft,
    *,
    first: Job | None,
    example: str = "",
    verdict: Verdict | None = None,
) -> HttpResponse:
    told = {
        "title": "Rerun with changes" if first else "New job",
        "draft": draft,
        "first": first,
        "values_are_anothers": first is not None and not may_use_values(request.user, first),
        "kept_names": sorted(first.environment) if first else [],
        "example": example,
        "examples": EXAMPLES.values(),
        "limits": _limits(draft, verdict),
        "networks": _networks(),
        "pythons": settings.PYTHON_VERSIONS,
        "priorities": _priorities(request),
        "suggestions": _suggestions(),
        "verdict": verdict,
        "slots": verdict.slots if verdict else {},
        "key": uuid.uuid4().hex,
    }
    status = 422 if verdict else 200
    return render(request, "console/new_job.html", {**context, **told}, status=status)


def _limits(draft: Draft, verdict: Verdict | None) -> list[LimitField]:
    published = {limit.name: limit for limit in job_limits()}
    return [
        LimitField(
            name,
            LIMIT_WORDS[name],
            SHORT_UNITS.get(published[name].unit, ""),
            published[name].minimum or 0,
            published[name].maximum or 0,
            draft.limits.get(name, ""),
            verdict.slots[name] if verdict else (),
        )
        for name in LIMITS
    ]


def _networks() -> list[tuple[str, str]]:
    maximum = Network(settings.JOB_NETWORK["maximum"])
    offered = [one for one in NETWORK_WORDS if one.at_most(maximum) is one]
    return [(str(one.value), NETWORK_WORDS[one]) for one in offered]


def _priorities(request: HttpRequest) -> list[str]:
    offered = [Priority.LOW, Priority.NORMAL]
    if may_prioritize(request.user):
        offered.append(Priority.HIGH)
    return [priority.word for priority in offered]


def _suggestions() -> dict[str, list[str]]:
    """Of the newest jobs: looking for all names that there are would read every job."""
    newest = Job.objects.order_by("-created_at", "-id").values_list("experiment_name", "model_name")
    pairs = list(newest[:LOOKED_THROUGH])
    return {
        "experiments": plain_names(experiment for experiment, _ in pairs),
        "models": plain_names(model for _, model in pairs),
    }
