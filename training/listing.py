"""Pages of jobs, newest first: each is read from one index in its order, whatever there is in all.

Nothing is counted, and the long columns (script, lock, output) are not read. A page is asked for by
the last job of the page before (`Place`), so the hundredth page costs what the first one does.
With several filters at once the index is that of the rarest one; what else is asked for is compared
row by row on the way. That way has an end: filters that are frequent alone and rare together would
lead through the whole index, so that a page of them may be short, even empty, and still have a next
one.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce

from training.models import Job, JobTerm
from training.services.submit import word_term
from training.states import ENDINGS, PHASES, Phase, Reason, Status

LONG_COLUMNS = ("script", "environment_lock", "environment")
# How far is looked to find the rarest of several filters.
RARE_ENOUGH = 1000
# How many entries of an index are compared for one page: 12 to 30 ms, measured with 200,000 jobs.
COMPARED_MAX = 5_000
# Of eight digits, what a list shows, two jobs of a million hardly ever have the same.
SAME_START_MOST = 20
BY_ID = ("pk", "pk__in")


@dataclass(frozen=True)
class Place:
    """Where a page ends: the created time and the id of its last job."""

    created_at: datetime
    job_id: uuid.UUID


@dataclass(frozen=True)
class JobFilter:
    """What is wanted; empty means all. `terms` are those of `JobTerm`, and all must be there.

    `id_start` is in hexadecimal digits: where a job's id begins so, it is that job which is meant,
    and its word in `terms` says nothing. `through` is the last place that is looked at.
    """

    job_id: uuid.UUID | None = None
    id_start: str = ""
    job_ids: tuple[uuid.UUID, ...] = ()
    status: str = ""
    phase: str = ""
    reason: str = ""
    experiment: str = ""
    model: str = ""
    owner: str = ""
    environment: str = ""
    terms: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    through: Place | None = None


@dataclass(frozen=True)
class Page:
    """Jobs, newest first, and the place where the next page goes on; None on the last one.

    Fewer jobs than were asked for, or none, do not mean that it is the last one.
    """

    jobs: Sequence[Job]
    next_place: Place | None


def page_of_jobs(wanted: JobFilter, *, limit: int, after: Place | None = None) -> Page:
    """At most `limit` jobs, those that follow the place `after`."""
    if _is_contradiction(wanted):
        return Page([], None)
    wanted = _by_start_of_id(wanted)
    first = _rarest(_columns(wanted), wanted.terms)
    through = _end_of_walk(wanted, first, after=after)
    walked = replace(wanted, through=through)
    found = list(jobs_query(walked, first, after=after)[: limit + 1])
    jobs = found[:limit]
    if len(found) > limit:
        return Page(jobs, Place(jobs[-1].created_at, jobs[-1].pk))
    return Page(jobs, through)


def _by_start_of_id(wanted: JobFilter) -> JobFilter:
    """The jobs whose ids begin so; the word that it is too, where there are none."""
    if not wanted.id_start:
        return wanted
    lowest, highest = (uuid.UUID(wanted.id_start.ljust(32, digit)) for digit in "0f")
    begin_so = Job.objects.filter(pk__gte=lowest, pk__lte=highest).order_by()
    found = tuple(begin_so.values_list("pk", flat=True)[:SAME_START_MOST])
    if not found:
        return wanted
    terms = tuple(term for term in wanted.terms if not term.startswith(word_term("")))
    return replace(wanted, job_ids=found, terms=terms)


def _is_contradiction(wanted: JobFilter) -> bool:
    """What no job can be, by the tables of states: not one row needs to be read."""
    statuses = {Status(wanted.status)} if wanted.status else set()
    if wanted.reason:
        statuses.add(ENDINGS[Reason(wanted.reason)].status)
    phases_fit = all(wanted.phase in PHASES[status] for status in statuses)
    return len(statuses) > 1 or (bool(wanted.phase) and not phases_fit)


def _end_of_walk(wanted: JobFilter, first: str, *, after: Place | None) -> Place | None:
    """Where the index of `first` has been compared for long enough; None when it ends before.

    The index alone is read. Where nothing is to be compared, each entry is a hit: no walk is long.
    """
    others = {*_columns(wanted), *wanted.terms} - {first}
    if not others or first in BY_ID:
        return None
    passed: QuerySet[Any, tuple[datetime, uuid.UUID]]
    if first in wanted.terms:
        within = _within(wanted, after, created="created_at", key="job_id")
        entries = JobTerm.objects.filter(within, term=first).order_by("-created_at", "-job_id")
        passed = entries.values_list("created_at", "job_id")
    else:
        within = _within(wanted, after, created="created_at", key="id")
        jobs = Job.objects.filter(within).order_by("-created_at", "-id")
        entry = {first: _columns(wanted)[first]} if first else {}
        passed = jobs.filter(**entry).values_list("created_at", "id")
    last = passed[COMPARED_MAX - 1 : COMPARED_MAX].first()
    return Place(*last) if last else None


def jobs_query(wanted: JobFilter, first: str, *, after: Place | None = None) -> QuerySet[Job]:
    """In the order of a page, and by the index of `first`: a column, a term, or none at all."""
    columns, terms = _columns(wanted), wanted.terms
    jobs = Job.objects.defer(*LONG_COLUMNS)
    for term in terms:
        if term != first:
            jobs = jobs.filter(_has_term(term))
    for name, value in columns.items():
        jobs = jobs.filter(**{name: value}) if name == first else _compared(jobs, name, value)
    if first not in terms:
        within = _within(wanted, after, created="created_at", key="id")
        return jobs.filter(within).order_by("-created_at", "-id")
    within = _within(wanted, after, created="terms__created_at", key="terms__job_id")
    hits = jobs.filter(Q(terms__term=first) & within)
    return hits.order_by("-terms__created_at", "-terms__job_id")


def _columns(wanted: JobFilter) -> dict[str, Any]:
    """Those whose index is worth more come first.

    A reason says status and phase as well. A phase has no index: the few jobs in one of a running
    job are found by their status.
    """
    columns: dict[str, Any] = {
        "pk": wanted.job_id,
        "pk__in": wanted.job_ids,
        "experiment_name": wanted.experiment,
        "model_name": wanted.model,
        "environment_key": wanted.environment,
        "owner": wanted.owner,
        "reason": wanted.reason,
        "status": "" if wanted.reason else wanted.status or _status_of(wanted.phase),
        "phase": "" if wanted.reason else wanted.phase,
    }
    return {name: value for name, value in columns.items() if value}


def _status_of(phase: str) -> str:
    if phase in ("", Phase.ENDED):
        return ""
    return Status.QUEUED if phase == Phase.WAITING else Status.RUNNING


def _rarest(columns: Mapping[str, Any], terms: Sequence[str]) -> str:
    """The name of the column, or the term, that the fewest jobs have; empty when none is asked."""
    for name in BY_ID:
        if name in columns:
            return name
    counts = {term: JobTerm.objects.filter(term=term).order_by() for term in terms}
    indexed = {name: value for name, value in columns.items() if name != "phase"}
    queries: dict[str, QuerySet[Any]] = {
        **counts,
        **{name: Job.objects.filter(**{name: value}).order_by() for name, value in indexed.items()},
    }
    if len(queries) < 2:
        return next(iter(queries), "")
    return min(queries, key=lambda name: queries[name].values("pk")[:RARE_ENOUGH].count())


def _has_term(term: str) -> Exists:
    same = {"term": term, "created_at": OuterRef("created_at"), "job": OuterRef("pk")}
    return Exists(JobTerm.objects.filter(**same))


def _compared(jobs: QuerySet[Job], name: str, value: Any) -> QuerySet[Job]:
    """As an expression: the database would take the wrong one of two indexes otherwise."""
    return jobs.alias(**{f"{name}_is": Coalesce(name, Value(""))}).filter(**{f"{name}_is": value})


def _within(wanted: JobFilter, after: Place | None, *, created: str, key: str) -> Q:
    """One range of the index; an OR at the top would make the database read all of it and sort."""
    within = Q()
    if wanted.created_after is not None:
        within &= Q(**{f"{created}__gte": wanted.created_after})
    if wanted.created_before is not None:
        within &= Q(**{f"{created}__lt": wanted.created_before})
    if after is not None:
        within &= Q(**{f"{created}__lte": after.created_at})
        within &= Q(**{f"{created}__lt": after.created_at}) | Q(**{f"{key}__lt": after.job_id})
    if wanted.through is not None:
        last = wanted.through
        within &= Q(**{f"{created}__gte": last.created_at})
        within &= Q(**{f"{created}__gt": last.created_at}) | Q(**{f"{key}__gte": last.job_id})
    return within
