"""Pages of the audit, newest first: each is read from one index in its order, however long it is.

Nothing is counted. A page is asked for by the last line of the page before (`Place`). With several
filters the index is that of the rarest one; what else is asked for is compared line by line on the
way, and that way has an end: a page may be short, even empty, and still have a next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Coalesce

from registry.models import AuditEntry

# How far is looked to find the rarest of several filters.
RARE_ENOUGH = 1000
# How many entries of an index are compared for one page.
COMPARED_MAX = 5_000
SEARCHED = ("actor", "key", "name", "detail", "address")


@dataclass(frozen=True)
class Place:
    """Where a page ends: the moment and the number of its last line."""

    at: datetime
    number: int


@dataclass(frozen=True)
class AuditFilter:
    """What is wanted; empty means all. `text` is found anywhere in who, what and where."""

    actor: str = ""
    act: str = ""
    channel: str = ""
    kind: str = ""
    key: str = ""
    text: str = ""
    after: datetime | None = None


@dataclass(frozen=True)
class Page:
    """Lines, newest first, and the place where the next page goes on; None on the last one."""

    entries: Sequence[AuditEntry]
    next_place: Place | None


def page_of_audit(wanted: AuditFilter, *, limit: int, after: Place | None = None) -> Page:
    """At most `limit` lines, those that follow the place `after`."""
    first = _rarest(_columns(wanted))
    through = _end_of_walk(wanted, first, after=after)
    found = list(audit_query(wanted, first, after=after, through=through)[: limit + 1])
    entries = found[:limit]
    if len(found) > limit:
        return Page(entries, Place(entries[-1].at, entries[-1].pk))
    return Page(entries, through)


def audit_query(
    wanted: AuditFilter, first: str, *, after: Place | None = None, through: Place | None = None
) -> QuerySet[AuditEntry]:
    """In the order of a page, and by the index of `first`; empty: by that of the order alone."""
    entries = _walk(wanted, first, after=after)
    for name, value in _columns(wanted).items():
        if name != first:
            entries = _compared(entries, name, value)
    if wanted.text:
        entries = entries.filter(_says(wanted.text))
    if through is not None:
        last = Q(at__gt=through.at) | Q(pk__gte=through.number)
        entries = entries.filter(last, at__gte=through.at)
    return entries


def _walk(wanted: AuditFilter, first: str, *, after: Place | None) -> QuerySet[AuditEntry]:
    entries = AuditEntry.objects.order_by("-at", "-id")
    if first:
        entries = entries.filter(**{first: _columns(wanted)[first]})
    if wanted.after is not None:
        entries = entries.filter(at__gte=wanted.after)
    if after is not None:
        entries = entries.filter(Q(at__lt=after.at) | Q(pk__lt=after.number), at__lte=after.at)
    return entries


def _end_of_walk(wanted: AuditFilter, first: str, *, after: Place | None) -> Place | None:
    """Where the index of `first` has been compared for long enough; None when it ends before.

    Where nothing is to be compared, each entry is a hit: no walk is long.
    """
    if not wanted.text and not set(_columns(wanted)) - {first}:
        return None
    passed = _walk(wanted, first, after=after).values_list("at", "pk")
    last = passed[COMPARED_MAX - 1 : COMPARED_MAX].first()
    return Place(*last) if last else None


def _columns(wanted: AuditFilter) -> dict[str, str]:
    columns = {
        "key": wanted.key,
        "actor": wanted.actor,
        "act": wanted.act,
        "channel": wanted.channel,
        "kind": wanted.kind,
    }
    return {name: value for name, value in columns.items() if value}


def _rarest(columns: Mapping[str, str]) -> str:
    """The name of the column whose value the fewest lines have; empty when none is asked.

    A kind has no index of its own: what is of one kind is as a rule asked for by its key.
    """
    indexed = {name: value for name, value in columns.items() if name != "kind"}
    if len(indexed) < 2 or "key" in indexed:
        return next(iter(indexed), "")
    counted = {
        name: AuditEntry.objects.filter(**{name: value}).order_by().values("pk")[:RARE_ENOUGH]
        for name, value in indexed.items()
    }
    return min(counted, key=lambda name: counted[name].count())


def _compared(entries: QuerySet[AuditEntry], name: str, value: Any) -> QuerySet[AuditEntry]:
    """As an expression: the database would take the wrong one of two indexes otherwise."""
    return entries.alias(**{f"{name}_is": Coalesce(name, Value(""))}).filter(
        **{f"{name}_is": value}
    )


def _says(text: str) -> Q:
    return reduce(or_, (Q(**{f"{name}__icontains": text}) for name in SEARCHED))
