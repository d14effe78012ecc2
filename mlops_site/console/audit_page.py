"""The audit: who did what to what, when and from where. It is read, filtered, and exported.

The filters are in the address, so that every list can be kept as a link and sent to others.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db.models import TextChoices
from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from inference.batch.tables import FORMULA_BEGINS, HARMLESS
from mlops_site.rights import SEES_AUDIT, has_right
from registry import audit
from registry.audit import Act, Kind
from registry.audit_listing import AuditFilter, Page, Place, page_of_audit
from registry.console import visible
from registry.list_queries import (
    LIMIT_DEFAULT,
    ParametersRejected,
    QueryReader,
    WrongValue,
    limit_of,
    member_of,
    time_and_key_of,
    whole_name,
)
from registry.models import AuditEntry
from registry.rawhttp import cursors
from registry.sources import Channel
from training.console.filters import DATE, DATE_CHOICES, DATES, Chip, without_empty

PARAMETERS = ("text", "actor", "act", "channel", "kind", "key", DATE, "limit", "cursor")
PLACE = ("cursor", "limit")
CSV_PAGE, CSV_LINES_MAX = 1000, 100_000
CSV_HEADINGS = ("at_utc", "who", "channel", "address", "act", "kind", "key", "name", "detail")
LABELS: dict[str, type[TextChoices]] = {"act": Act, "channel": Channel, "kind": Kind}
# Where one goes from a line; a kind that is not here has no page of one of its own.
PAGES = {
    Kind.JOB: "admin:training_job_change",
    Kind.ENVIRONMENT: "admin:training_builtenvironment_change",
    Kind.SERVER: "admin:inference_modelserver_change",
    Kind.BATCH: "admin:inference_batchprediction_change",
}
LISTS = {
    Kind.MODEL: "admin:inference_modelserver_changelist",
    Kind.USER: "admin:auth_user_changelist",
    Kind.GROUP: "admin:auth_group_changelist",
}
# Whoever sees the audit sees everything that is named in it, but for these.
RIGHTS: dict[str, str] = {Kind.USER: "auth.view_user", Kind.GROUP: "auth.view_group"}


@dataclass(frozen=True)
class Asked:
    """What an address asks for; `wanted` is None when something of it is wrong (`wrong`)."""

    parameters: QueryDict
    wanted: AuditFilter | None
    limit: int = LIMIT_DEFAULT
    after: Place | None = None
    wrong: tuple[str, ...] = ()

    @property
    def filters(self) -> QueryDict:
        """Without the place in the list."""
        kept = self.parameters.copy()
        for name in PLACE:
            kept.pop(name, None)
        return kept


@dataclass(frozen=True)
class Row:
    """One line as it is shown: `address` leads to what it was done to, where that has a page."""

    entry: AuditEntry
    words: str
    channel: str
    kind: str
    address: str


def audit_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's. A form's empty fields are cleared away: an address is a link."""
    _check_may_see(request)
    now = timezone.now()
    asked = read(request.GET, now=now)
    if asked.parameters != request.GET:
        query = asked.parameters.urlencode()
        return HttpResponse(status=302, headers={"Location": f"?{query}" if query else "."})
    page = Page([], None)
    if asked.wanted is not None:
        page = page_of_audit(asked.wanted, limit=asked.limit, after=asked.after)
    told = {
        "title": "Audit",
        "asked": asked,
        "rows": [row_of(entry, person=request.user) for entry in page.entries],
        "older": _older(asked, page),
        "is_first": "cursor" not in asked.parameters,
        "chips": chips_of(asked),
        "choices": _choices(asked),
        "served_at": now,
    }
    return render(request, "console/audit.html", {**context, **told})


@require_GET
def audit_csv(request: HttpRequest) -> StreamingHttpResponse | HttpResponse:
    """What the filters find, newest first, as a file; that it was taken is written down."""
    _check_may_see(request)
    asked = read(request.GET, now=timezone.now())
    if asked.wanted is None:
        return HttpResponse("\n".join(asked.wrong), status=400, content_type="text/plain")
    detail = asked.filters.urlencode() or "everything"
    audit.record(Act.AUDIT_EXPORT, Kind.PLATFORM, "audit", detail=detail)
    headers = {
        "Content-Disposition": f'attachment; filename="audit-{timezone.now():%Y-%m-%d}.csv"',
        "X-Content-Type-Options": "nosniff",
    }
    lines = _csv_lines(asked.wanted)
    return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8", headers=headers)


def read(parameters: QueryDict, *, now: datetime) -> Asked:
    kept = without_empty(parameters)
    reader = QueryReader(kept, PARAMETERS)
    reader.refuse_unknown()
    text = reader.one("text", whole_name) or ""
    date = reader.one(DATE, _date)
    wanted = AuditFilter(
        actor=reader.one("actor", whole_name) or "",
        act=reader.one("act", member_of(Act)) or "",
        channel=reader.one("channel", member_of(Channel)) or "",
        kind=reader.one("kind", member_of(Kind)) or "",
        key=reader.one("key", whole_name) or "",
        text=text,
        after=now - DATES[date][1] if date else None,
    )
    limit = reader.one("limit", limit_of) or LIMIT_DEFAULT
    after = reader.one("cursor", _place)
    try:
        reader.raise_if_any()
    except ParametersRejected as rejected:
        told = (f"{one['field']}: {one['detail']} {one['hint']}" for one in rejected.errors)
        return Asked(kept, None, wrong=tuple(told))
    return Asked(kept, wanted, limit, after)


def row_of(entry: AuditEntry, *, person: AbstractBaseUser | AnonymousUser) -> Row:
    """With a link only where this person may follow it."""
    right = RIGHTS.get(entry.kind, "")
    return Row(
        entry=entry,
        words=label_of(Act, entry.act),
        channel=label_of(Channel, entry.channel),
        kind=label_of(Kind, entry.kind),
        address=_address_of(entry) if not right or has_right(person, right) else "",
    )


def chips_of(asked: Asked) -> list[Chip]:
    return list(_chips(asked.filters))


def label_of(choices: type[TextChoices], value: str) -> str:
    """A value of before the code knew it, or after, is shown as it is."""
    return str(choices(value).label) if value in choices.values else value


def _chips(filters: QueryDict) -> Iterator[Chip]:
    for name in filters:
        value = filters.get(name, "")
        without = filters.copy()
        del without[name]
        words = DATES[value][0] if name == DATE and value in DATES else value
        if name in LABELS:
            words = label_of(LABELS[name], value)
        yield Chip(name, words, f"?{without.urlencode()}")


def _address_of(entry: AuditEntry) -> str:
    """Of a kind with one page for each, that; else the list that it is found in."""
    kind = entry.kind
    if kind in PAGES and entry.key:
        return reverse(PAGES[Kind(kind)], args=[entry.key])
    if kind in LISTS:
        found = QueryDict(mutable=True)
        found["q"] = entry.key
        return f"{reverse(LISTS[Kind(kind)])}?{found.urlencode()}"
    return reverse("admin:queue") if kind == Kind.PLATFORM else ""


def _choices(asked: Asked) -> list[dict[str, Any]]:
    lists: dict[str, list[tuple[str, str]]] = {
        "act": [(one.value, str(one.label)) for one in Act],
        "channel": [(one.value, str(one.label)) for one in Channel],
        DATE: DATE_CHOICES,
    }
    return [
        {"name": name, "value": asked.parameters.get(name, ""), "options": options}
        for name, options in lists.items()
    ]


def _older(asked: Asked, page: Page) -> str:
    if page.next_place is None:
        return ""
    following = asked.parameters.copy()
    place = page.next_place
    following["cursor"] = cursors.cursor_of(place.at, str(place.number))
    return f"?{following.urlencode()}"


def _date(value: str) -> str:
    if value not in DATES:
        raise WrongValue(f"There is no date {value!r}.", f"Send one of: {', '.join(DATES)}.")
    return value


def _place(value: str) -> Place:
    moment, key = time_and_key_of(value)
    if not (key.isascii() and key.isdigit()):
        raise WrongValue("This is not a cursor of ours.", "Begin with the newest.")
    return Place(moment, int(key[:18]))


# -- export ---------------------------------------------------------------------------------------
class _Echo:
    """A file for the writer of CSV that keeps nothing: it hands each line on."""

    def write(self, text: str) -> str:
        return text


def _csv_lines(wanted: AuditFilter) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(CSV_HEADINGS)
    after: Place | None = None
    left = CSV_LINES_MAX
    while left > 0:
        page = page_of_audit(wanted, limit=min(CSV_PAGE, left), after=after)
        for entry in page.entries:
            yield writer.writerow([_cell(value) for value in _values(entry)])
        left -= len(page.entries)
        after = page.next_place
        if after is None:
            return


def _values(entry: AuditEntry) -> tuple[str, ...]:
    at = entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    where = (entry.actor, entry.channel, entry.address)
    return (at, *where, entry.act, entry.kind, entry.key, entry.name, entry.detail)


def _cell(value: str) -> str:
    """As text whatever it holds: nothing that a spreadsheet would run or obey."""
    told = visible(value)
    return HARMLESS + told if told.startswith(FORMULA_BEGINS) else told


def _check_may_see(request: HttpRequest) -> None:
    if not has_right(request.user, SEES_AUDIT):
        raise PermissionDenied
