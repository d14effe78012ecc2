"""Two jobs side by side: is the second one better, what was changed to get there, what did it cost.

`a` is the first one, `b` the second; both are in the address. Nobody is told whether values of
variables differ: whoever may send jobs could guess a secret by trying. Nothing here writes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST

from registry.compared import Compared, compare
from registry.console import size, span
from registry.mlflow_client import RegistryUnavailable, RunNotFound, model_registry
from registry.mlflow_documents import Run
from sandbox.image.lock_file import pins_in
from training.board import state_words
from training.console import bulk
from training.console.differences import LEAST_FOLD, difference
from training.console.phases import WORDS
from training.facts import JobFacts, facts_of
from training.limits import UNITS, JobLimits
from training.models import Job
from training.rights import may_see, may_send
from training.states import TERMINAL, Phase, Priority

LIST, PAGE = "admin:training_job_changelist", "admin:job_compare"
BEFORE = "before"
ROWS_MOST = 300
VALUE_CHARACTERS = 300
NONE = ""
MIB = 1024 * 1024
SILENT = "MLflow does not answer."


@dataclass(frozen=True)
class Beside:
    """One thing of both jobs, as text; `change` says by how much B differs, where that is said."""

    name: str
    first: str
    second: str
    change: str = ""

    @property
    def differs(self) -> bool:
        return self.first != self.second


@dataclass(frozen=True)
class Head:
    """One of the two: what it is, how it ended, how long it took."""

    letter: str
    job: Job
    words: str
    took: str
    is_alive: bool

    @property
    def short_id(self) -> str:
        return str(self.job.pk)[:8]


@dataclass(frozen=True)
class Logged:
    """What the runs of both logged; `problem` says of either why it is not known."""

    first: Run | None = None
    second: Run | None = None
    problems: tuple[str, ...] = ()


def compare_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """With `a=before`, the job before `b` in its experiment; with one or none, a question.

    Raises PermissionDenied, and Http404 for a job that is named and not there.
    """
    _check_may_see(request)
    asked, other = request.GET.get("a", "").strip(), request.GET.get("b", "").strip()
    if asked == BEFORE:
        return _with_the_one_before(request, context, _job(other))
    if not asked or not other:
        return _question(request, context, asked, other)
    first, second = _job(asked), _job(other)
    told = {
        "title": f"Compare {str(first.pk)[:8]} and {str(second.pk)[:8]}",
        "may_send": may_send(request.user),
        "whole": "whole" in request.GET,
        **_told(first, second, folds=0 if "whole" in request.GET else LEAST_FOLD),
    }
    return render(request, "console/compare.html", {**context, **told})


@require_POST
def compare_chosen(request: HttpRequest) -> HttpResponse:
    """From a list, where two were selected: the older one is A."""
    _check_may_see(request)
    jobs = bulk.chosen_jobs(request.POST.getlist("job"))
    if len(jobs) != 2:
        told = "None is" if not jobs else "One is" if len(jobs) == 1 else f"{len(jobs)} are"
        messages.warning(request, f"Select two jobs to compare them. {told} selected.")
        back = request.POST.get("back", "")
        return HttpResponseRedirect(f"{reverse(LIST)}?{back}" if back else reverse(LIST))
    return HttpResponseRedirect(address_of(jobs[1], jobs[0]))


def address_of(first: Job, second: Job) -> str:
    return f"{reverse(PAGE)}?{urlencode({'a': first.pk, 'b': second.pk})}"


def _check_may_see(request: HttpRequest) -> None:
    if not may_see(request.user):
        raise PermissionDenied


def _job(job_id: str) -> Job:
    known = bulk.id_of(job_id)
    job = Job.objects.filter(pk=known).first() if known else None
    if job is None:
        raise Http404("There is no such job.")
    return job


def _with_the_one_before(request: HttpRequest, context: dict[str, Any], job: Job) -> HttpResponse:
    """Read from the index of experiments, in its order."""
    earlier = Job.objects.filter(
        Q(created_at__lt=job.created_at) | Q(created_at=job.created_at, pk__lt=job.pk),
        experiment_name=job.experiment_name,
    )
    before = earlier.order_by("-created_at", "-id").only("pk").first()
    if before is None:
        return _question(request, context, "", str(job.pk), alone=job)
    return HttpResponseRedirect(address_of(before, job))


def _question(
    request: HttpRequest,
    context: dict[str, Any],
    first: str,
    second: str,
    *,
    alone: Job | None = None,
) -> HttpResponse:
    told = {"title": "Compare two jobs", "first": first, "second": second, "alone": alone}
    return render(request, "console/compare_ask.html", {**context, **told})


# -- what is told ----------------------------------------------------------------------------------
def _told(first: Job, second: Job, *, folds: int) -> dict[str, Any]:
    facts = facts_of([first, second], waiting={})
    logged = _logged(first, second)
    metrics = _metrics(logged)
    parameters = _parameters(logged)
    asked, packages = _asked(first, second), _packages(first, second)
    return {
        "heads": [_head("A", first), _head("B", second)],
        "swapped": address_of(second, first),
        "problems": logged.problems,
        "metrics": metrics,
        "judged": _judged(metrics),
        "parameters": [row for row in parameters if row.differs],
        "equal_parameters": [row for row in parameters if not row.differs],
        "script": difference(first.script, second.script, folds=folds),
        "asked": [row for row in asked if row.differs],
        "packages": [row for row in packages if row.differs][:ROWS_MOST],
        "equal_packages": sum(not row.differs for row in packages),
        "has_lock": bool(first.environment_lock and second.environment_lock),
        "costs": _costs(facts[first.pk], facts[second.pk]),
    }


def _head(letter: str, job: Job) -> Head:
    took = "" if job.duration_seconds is None else span(job.duration_seconds)
    return Head(letter, job, state_words(job), took, job.status not in TERMINAL)


def _logged(first: Job, second: Job) -> Logged:
    try:
        runs = [_run(first, "A"), _run(second, "B")]
    except RegistryUnavailable:
        return Logged(problems=(SILENT,))
    return Logged(runs[0][0], runs[1][0], tuple(problem for _, problem in runs if problem))


def _run(job: Job, letter: str) -> tuple[Run | None, str]:
    """Raises RegistryUnavailable."""
    if not job.run_id:
        return None, f"{letter} has no run in MLflow{'' if job.status in TERMINAL else ' yet'}."
    try:
        return model_registry().catalog.run(job.run_id), ""
    except RunNotFound:
        return None, f"The run of {letter} was deleted in MLflow."


def _metrics(logged: Logged) -> Sequence[Compared]:
    first = logged.first.metrics if logged.first else {}
    second = logged.second.metrics if logged.second else {}
    return compare(second, first)


def _judged(metrics: Sequence[Compared]) -> str:
    """`4 better, 1 worse`."""
    counts = {word: sum(one.judged == word for one in metrics) for word in ("better", "worse")}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _parameters(logged: Logged) -> list[Beside]:
    first = logged.first.parameters if logged.first else {}
    second = logged.second.parameters if logged.second else {}
    return _besides(first, second)[:ROWS_MOST]


def _besides(first: Mapping[str, str], second: Mapping[str, str]) -> list[Beside]:
    names = sorted({*first, *second})
    return [Beside(name, _cut(first.get(name)), _cut(second.get(name))) for name in names]


def _asked(first: Job, second: Job) -> list[Beside]:
    """All that was asked for but the script."""
    one, other = _wishes(first), _wishes(second)
    return [
        *_lists("Requirement", first.requirements, second.requirements),
        *_lists("Variable", first.environment, second.environment),
        *(Beside(name, one[name], other[name]) for name in one),
        *_tags(first, second),
    ]


def _lists(what: str, first: Iterable[str], second: Iterable[str]) -> list[Beside]:
    """A line for each that only one of them has."""
    one, other = set(first), set(second)
    return [
        Beside(what, _cut(name) if name in one else NONE, _cut(name) if name in other else NONE)
        for name in sorted(one ^ other)
    ]


def _tags(first: Job, second: Job) -> list[Beside]:
    rows = _besides(first.tags, second.tags)
    return [Beside(f"Tag {row.name}", row.first, row.second) for row in rows]


def _wishes(job: Job) -> dict[str, str]:
    limits = {
        name.removesuffix("_mb").capitalize(): f"{value:g} {UNITS[name]}"
        for name, value in asdict(JobLimits.of(job)).items()
    }
    return {
        "Name of the script": job.script_name,
        "Experiment": job.experiment_name,
        "Model": job.model_name,
        "Python": job.python_version,
        "Network": job.network,
        "Priority": Priority(job.priority).word,
        "Time": span(job.timeout_seconds),
        **limits,
    }


def _packages(first: Job, second: Job) -> list[Beside]:
    return _besides(_versions(first), _versions(second))


def _versions(job: Job) -> dict[str, str]:
    """By name; of one that was asked for by an address, the address."""
    found = {}
    for pin in pins_in(job.environment_lock):
        name, at, address = pin.partition(" @ ")
        name, _, version = (name, "", address) if at else pin.partition("==")
        found[name] = version
    return found


def _costs(first: JobFacts, second: JobFacts) -> list[Beside]:
    """What was measured of either; each with how much more B took."""
    one, other = first.phase_seconds, second.phase_seconds
    phases = [phase for phase in Phase if phase in WORDS and (phase in one or phase in other)]
    memory = [facts.peak_memory_bytes / MIB for facts in (first, second)]
    return [
        *(_cost(WORDS[phase], one.get(phase), other.get(phase), told=span) for phase in phases),
        _cost("CPU time", first.cpu_seconds or None, second.cpu_seconds or None, told=span),
        _cost("Memory, peak", memory[0] or None, memory[1] or None, told=size),
        Beside("Attempts", str(len(first.attempts)), str(len(second.attempts))),
    ]


def _cost(
    name: str, first: float | None, second: float | None, *, told: Callable[[float], str]
) -> Beside:
    shown = [NONE if value is None else told(value) for value in (first, second)]
    return Beside(name, shown[0], shown[1], _part(first, second))


def _part(first: float | None, second: float | None) -> str:
    """`+12 %`; empty where nothing can be said."""
    if not first or second is None:
        return ""
    percent = round(100 * (second - first) / first)
    sign = "+" if percent > 0 else "−" if percent < 0 else "±"
    return f"{sign}{abs(percent):,} %"


def _cut(text: str | None) -> str:
    told = text or NONE
    return told if len(told) <= VALUE_CHARACTERS else f"{told[:VALUE_CHARACTERS]}…"
