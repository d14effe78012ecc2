"""The page of one job: its answer first, then how it went, what it printed and what it was.

While the job is alive, the head, the phases, what was used and the facts are asked for again and
replaced by their ids; with the job's end that ends too. The log is read by the browser, from the
API. Nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, Max, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.utils import timezone
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from registry.console import visible
from sandbox.image.lock_file import pins_in
from training.board import state_words, with_usual
from training.console import bulk
from training.console.checks import checks_of
from training.console.controls import controls_of
from training.console.failed_line import failed_line
from training.console.phases import timeline_of
from training.console.rows import rows_of
from training.console.script import script_of
from training.console.usage import meters_of
from training.day import reason_words
from training.facts import JobFacts, facts_of
from training.models import Attempt, Job, LogChunk
from training.rights import may_send
from training.states import ENDINGS, TERMINAL, Fault, Reason, Status

REFRESH_SECONDS = 2
FAULTS = {Fault.USER: "the script's", Fault.PLATFORM: "the platform's", Fault.NOBODY: "nobody's"}
HEAVY = ("script", "environment_lock", "environment")
PARTS = {LogChunk.Part.BUILD: "Environment", LogChunk.Part.RUN: "Run"}


@dataclass(frozen=True)
class Part:
    """Where a part of the log begins and ends, in bytes of the whole."""

    at: int
    end: int
    words: str


def job_page(request: HttpRequest, context: dict[str, Any], job_id: str) -> HttpResponse:
    """`context` is the frame's. Raises Http404 where there is no such job."""
    job = _found(with_usual(Job.objects.all()), job_id)
    parts = _parts(job)
    now = _now(request, job)
    told = {
        **now,
        **_whole(job),
        "parts": [[part.at, part.words] for part in parts],
        "log_bytes": parts[-1].end if parts else 0,
        "script": script_of(job, failing=now["failing"]),
        "served_at": timezone.now(),
    }
    return render(request, "console/job.html", {**context, **told})


def job_now(request: HttpRequest, job_id: str) -> HttpResponse:
    """The pieces that change while one looks; those that only a new state changes, only then."""
    job = _found(with_usual(Job.objects.defer(*HEAVY)), job_id)
    told = {**_now(request, job), "oob": True}
    if request.GET.get("revision") != str(job.revision):
        told |= _whole(Job.objects.get(pk=job.pk))
    return render(request, "console/job_now.html", told)


def _found(jobs: QuerySet[Job], job_id: str) -> Any:
    known = bulk.id_of(job_id)
    job = jobs.filter(pk=known).first() if known else None
    if job is None:
        raise Http404("There is no such job.")
    return job


def _now(request: HttpRequest, job: Any) -> dict[str, Any]:
    now = timezone.now()
    facts = facts_of([job], waiting={})[job.pk]
    row = rows_of([job], now=now)[0]
    usual = None if job.usual is None else job.usual.total_seconds()
    last = facts.attempts[-1] if facts.attempts else None
    return {
        "title": f"{state_words(job)} · {visible(job.script_name)}",
        "tab_icon": static(f"mlops_site/favicon-{job.status}.svg"),
        "job": job,
        "row": row,
        "words": state_words(job),
        "headline": _headline(job),
        "is_alive": job.status not in TERMINAL,
        "refresh_seconds": REFRESH_SECONDS,
        "usual_seconds": usual,
        "may_send": may_send(request.user),
        "controls": controls_of(job, person=request.user, now=now),
        "timeline": timeline_of(job, facts.moments, usual_seconds=usual, now=now),
        "meters": meters_of(job, facts, now=now),
        "attempts": facts.attempts,
        "last": last,
        "failing": failed_line(job, facts.attempts),
        "reruns": facts.reruns,
        "fault": _fault(job, facts),
        "tags": sorted(job.tags.items()),
    }


def _whole(job: Job) -> dict[str, Any]:
    """What is long, or is only known once a container was made."""
    last = Attempt.objects.filter(job=job).order_by("-number").values("number", "readback").first()
    checks = checks_of(last["readback"]) if last else []
    pins = pins_in(job.environment_lock)
    return {
        "environment_shown": True,
        "requirements": _resolved(job.requirements, pins),
        "pins": pins,
        "variables": sorted(job.environment),
        "checks": checks,
        "checked_attempt": last["number"] if last else None,
        "checks_held": sum(check.holds for check in checks),
    }


def _headline(job: Job) -> str:
    """Why it ended as it did, in a word or two; empty for one that ended well or has not ended."""
    if job.status == Status.FAILED:
        return reason_words(Reason(job.reason))
    return "Cancelled" if job.status == Status.CANCELLED else ""


def _fault(job: Job, facts: JobFacts) -> str:
    if job.status != Status.FAILED:
        return ""
    ending = ENDINGS[Reason(job.reason)]
    tried = len(facts.attempts)
    again = f"tried {tried} times" if tried > 1 else "not tried again by itself"
    return f"{FAULTS[ending.fault]}, {again}"


def _parts(job: Job) -> Sequence[Part]:
    """In order; one query, however many attempts there were."""
    chunks = LogChunk.objects.filter(attempt__job=job).order_by("attempt__number", "part")
    lengths = chunks.values_list("attempt__number", "part").annotate(
        end=Max(F("offset") + F("size"))
    )
    parts, at = [], 0
    for number, part, length in lengths:
        again = f", attempt {number}" if number > 1 else ""
        parts.append(Part(at, at + length, f"{PARTS[LogChunk.Part(part)]}{again}"))
        at += length
    return parts


def _resolved(requirements: Sequence[str], pins: Sequence[str]) -> list[tuple[str, str]]:
    """Each as it was asked for, with the version that it became; empty while nobody knows."""
    split = (pin.partition("==") for pin in pins)
    versions = {str(canonicalize_name(name)): version for name, _, version in split}
    return [(asked, versions.get(_name(asked), "")) for asked in requirements]


def _name(requirement: str) -> str:
    try:
        return str(canonicalize_name(Requirement(requirement).name))
    except InvalidRequirement:
        return ""
