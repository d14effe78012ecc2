"""Lists of jobs that somebody keeps by a name: links of one's own, and nobody else's business."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.views.decorators.http import require_POST

from registry.console import visible
from training.console import filters
from training.models import SavedList

LIST = "admin:training_job_changelist"
NAME_MOST, QUERY_MOST, LISTS_MOST = 60, 2000, 20


@dataclass(frozen=True)
class Kept:
    """One of them, as the list's page shows it."""

    id: int
    name: str
    address: str
    current: bool


def kept_by(person: Any, asked: filters.Asked) -> Sequence[Kept]:
    """All of somebody's, by their names; one query."""
    shown = asked.filters
    return [
        Kept(one.pk, one.name, f"?{one.query}", QueryDict(one.query) == shown)
        for one in SavedList.objects.filter(person=person)[:LISTS_MOST]
    ]


@require_POST
def save(request: HttpRequest) -> HttpResponse:
    """Keeps the filters by a name; what had the name before is replaced."""
    name = " ".join(request.POST.get("name", "").split())
    asked = filters.Asked(filters.without_empty(QueryDict(request.POST.get("query", ""))), None)
    query = asked.filters.urlencode()
    refused = _why_not(request, name, query)
    if refused:
        messages.warning(request, refused)
    else:
        SavedList.objects.update_or_create(
            person_id=request.user.pk, name=name, defaults={"query": query}
        )
        messages.success(request, f"Saved as “{visible(name)}”.")
    return _back(query)


@require_POST
def forget(request: HttpRequest) -> HttpResponse:
    """Only one's own; the list itself stays where it is."""
    mine = SavedList.objects.filter(person_id=request.user.pk)
    chosen = request.POST.get("saved", "")
    one = mine.filter(pk=int(chosen)).first() if chosen.isascii() and chosen.isdigit() else None
    if one is None:
        messages.warning(request, "There is no such saved list any more.")
        return _back("")
    one.delete()
    messages.success(request, f"“{visible(one.name)}” is no longer kept.")
    return _back(one.query)


def _why_not(request: HttpRequest, name: str, query: str) -> str:
    if not name or len(name) > NAME_MOST or "\x00" in name:
        return f"Not saved: a name has 1 to {NAME_MOST} characters."
    if not query or len(query) > QUERY_MOST or "%00" in query:
        return "Not saved: choose filters first, and not too many."
    mine = SavedList.objects.filter(person_id=request.user.pk).exclude(name=name)
    if mine.count() >= LISTS_MOST:
        return f"Not saved: {LISTS_MOST} are kept at most. Forget one first."
    return ""


def _back(query: str) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse(LIST)}?{query}" if query else reverse(LIST))
