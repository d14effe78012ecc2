"""The list of jobs in the console: filters in, a page of rows out; a question before every act."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from registry.console import visible
from registry.list_queries import WrongValue
from training.api.queries import cursor_of, place_of
from training.console import bulk, filters, saved, tags
from training.console.rows import Row, rows_of
from training.listing import Page, Place, page_of_jobs
from training.models import Job

NEWER_MOST = 50
LIST, PAGE = "admin:training_job_changelist", "admin:training_job_change"


@dataclass(frozen=True)
class Back:
    """Where somebody was who asks for an act: on the page of a job, or else in a list.

    Whatever was sent, `address` is one of these two pages.
    """

    query: str
    page: uuid.UUID | None

    @property
    def address(self) -> str:
        return reverse(PAGE, args=[self.page]) if self.page else _address(self.query)


def jobs_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's. A form's empty fields are cleared away: an address is a link."""
    now = timezone.now()
    asked = filters.read(request.GET, now=now)
    if asked.parameters != request.GET:
        return HttpResponseRedirect(_address(asked.parameters.urlencode()))
    page = _page_of(asked)
    rows = rows_of(page.jobs, now=now)
    told = {
        "title": "Jobs",
        "asked": asked,
        "rows": rows,
        "alive": _alive(rows),
        "older": _older(asked, page),
        "is_first": not asked.value("cursor"),
        "chips": filters.chips_of(asked),
        "tabs": filters.tabs_of(asked, me=request.user.get_username()),
        "saved": saved.kept_by(request.user, asked),
        "seen": _seen(page, now=now),
        "choices": _choices(asked),
        "suggestions": _suggestions(page.jobs),
        "other_tags": asked.parameters.getlist("tag"),
        "tag_names": tags.names_to_choose(without=asked.parameters.getlist("tag")),
        "actions": bulk.actions_for(request.user),
        "served_at": now,
    }
    return render(request, "console/jobs.html", {**context, **told})


def jobs_newer(request: HttpRequest) -> HttpResponse:
    """How many jobs of this list came since it was shown; asks for itself again.

    Nothing is added to the list while one looks. Raises Http404 for a place that is none.
    """
    parameters = request.GET.copy()
    try:
        seen = place_of((parameters.pop("seen", None) or [""])[-1])
    except WrongValue:
        raise Http404("There is no such place.") from None
    asked = filters.read(parameters, now=timezone.now())
    newer = 0
    if asked.query is not None:
        wanted = replace(asked.query.wanted, created_after=seen.created_at)
        jobs = page_of_jobs(wanted, limit=NEWER_MOST + 1).jobs
        newer = sum((job.created_at, job.pk) > (seen.created_at, seen.job_id) for job in jobs)
    told = {
        "newer": min(newer, NEWER_MOST),
        "is_cut": newer > NEWER_MOST,
        "asked": asked,
        "seen": cursor_of(seen),
    }
    return render(request, "console/jobs_newer.html", told)


def jobs_now(request: HttpRequest) -> HttpResponse:
    """What of some rows changes while one looks; each piece replaces the one of its id.

    So does what asks for them: it asks for those that are still alive, and in the end for none.
    """
    jobs = bulk.chosen_jobs(request.GET.getlist("job"))
    whole = Job.objects.defer("script", "environment_lock", "environment")
    found = list(whole.filter(pk__in=[job.pk for job in jobs]))
    rows = rows_of(found, now=timezone.now())
    told = {"rows": rows, "alive": _alive(rows), "oob": True}
    return render(request, "console/jobs_now.html", told)


@require_POST
def ask(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What would happen to the chosen jobs, and the button that does it; nothing is done."""
    action, jobs = _asked(request)
    plan = bulk.plan_of(action, jobs, person=request.user, now=timezone.now())
    told = {"plan": plan, "back": _back(request), "title": plan.what}
    inside = "HX-Request" in request.headers
    template = "console/jobs_ask.html" if inside else "console/jobs_ask_page.html"
    return render(request, template, {**context, **told})


@require_POST
def act(request: HttpRequest) -> HttpResponse:
    """Does it, and goes back to where it was asked for, which tells what was done and what not.

    From the page of one job that runs again, it goes on to the page of the new one.
    """
    action, jobs = _asked(request)
    outcome = bulk.carry_out(action, jobs, person=request.user)
    if outcome.done:
        messages.success(request, outcome.told)
    if outcome.refused:
        messages.warning(request, outcome.refusals)
    if not jobs:
        messages.warning(request, "No job was selected, or none of them is there any more.")
    back = _back(request)
    if back.page and outcome.made:
        return HttpResponseRedirect(reverse(PAGE, args=[outcome.made[0]]))
    return HttpResponseRedirect(back.address)


def _asked(request: HttpRequest) -> tuple[bulk.Action, list[Job]]:
    """Raises Http404 for an action that there is none of."""
    try:
        action = bulk.Action(request.POST.get("action", ""))
    except ValueError:
        raise Http404("There is no such action.") from None
    return action, bulk.chosen_jobs(request.POST.getlist("job"))


def _back(request: HttpRequest) -> Back:
    sent = request.POST
    return Back(sent.get("back", ""), bulk.id_of(sent.get("page", "")))


def _page_of(asked: filters.Asked) -> Page:
    if asked.query is None:
        return Page([], None)
    return page_of_jobs(asked.query.wanted, limit=asked.query.limit, after=asked.query.after)


def _seen(page: Page, *, now: datetime) -> str:
    """The place of the newest job that is shown, or of now where there is none."""
    newest = max(((job.created_at, job.pk) for job in page.jobs), default=(now, uuid.UUID(int=0)))
    return cursor_of(Place(*newest))


def _alive(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.is_alive]


def _address(query: str) -> str:
    """The list again; whatever `query` is, it is that page."""
    return f"{reverse(LIST)}?{query}" if query else reverse(LIST)


def _older(asked: filters.Asked, page: Page) -> str:
    if page.next_place is None:
        return ""
    following = asked.parameters.copy()
    following["cursor"] = cursor_of(page.next_place)
    return f"?{following.urlencode()}"


def _choices(asked: filters.Asked) -> list[dict[str, Any]]:
    """The lists to choose from."""
    lists = {
        "status": filters.STATUSES,
        "reason": filters.REASONS,
        filters.DATE: filters.DATE_CHOICES,
    }
    return [
        {"name": name, "value": asked.value(name), "options": options}
        for name, options in lists.items()
    ]


def _suggestions(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Names to fill in, from what is shown: looking for all that there are would read every job."""
    return {
        "experiment": plain_names(job.experiment_name for job in jobs),
        "model": plain_names(job.model_name for job in jobs),
        "owner": plain_names(job.owner for job in jobs),
    }


def plain_names(values: Iterable[str]) -> list[str]:
    """Without those that a browser would not show as they are."""
    return sorted({value for value in values if value and visible(value) == value})
