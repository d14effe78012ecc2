"""Lists of environments, and what they take of the disk; for the API and the console alike.

A row holds two locks, which are long: what a list is filtered and sorted by is read from one index
that has all of it, and packages are found in a table of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Any

from django.conf import settings
from django.db.models import Count, F, Q, QuerySet, Sum
from packaging.utils import canonicalize_name

from training.models import BuiltEnvironment, EnvironmentPackage

State = BuiltEnvironment.State
ON_DISK = (State.READY, State.BUILDING, State.FAILED)
LONG_COLUMNS = ("lock", "pylock", "build_log")
MB = 1_000_000
# How many of the newest builds the usual time is taken from.
BUILDS_LOOKED_AT = 50
TERMS_MAX = 5


class Order(StrEnum):
    """How a list is sorted: the one that is used, made or filled last, or the largest, first."""

    USED = "used"
    NEWEST = "newest"
    SIZE = "size"


ORDERS: dict[Order, Sequence[Any]] = {
    Order.USED: (F("last_used_at").desc(nulls_last=True), "-key"),
    Order.NEWEST: ("-created_at", "-key"),
    Order.SIZE: ("-size_bytes", "-key"),
}


@dataclass(frozen=True)
class EnvironmentFilter:
    """Which ones; empty means all. Each of `terms` must be there: a package, with a version or
    without, such as `xgboost` or `xgboost==2.1`, of which beginnings are enough; or how the key of
    the environment begins.
    """

    states: tuple[str, ...] = ()
    python_version: str = ""
    terms: tuple[str, ...] = ()
    unused_since: datetime | None = None


@dataclass(frozen=True)
class Disk:
    """What environments take: `used_bytes` of `most_bytes`, which is 0 where there is no bound."""

    on_disk: int
    gone: int
    failed: int
    used_bytes: int
    most_bytes: int
    usual_build_seconds: float | None

    @property
    def percent(self) -> int:
        return round(100 * self.used_bytes / self.most_bytes) if self.most_bytes else 0


@dataclass(frozen=True)
class Unused:
    """Environments that nobody used for `days` days, and that no registered model needs."""

    days: int
    keys: tuple[str, ...]
    size_bytes: int


def newest(
    wanted: EnvironmentFilter, *, limit: int, after: tuple[datetime, str] | None = None
) -> list[BuiltEnvironment]:
    """Newest first, without the long columns; those that follow `after`."""
    rows = matching(wanted).defer(*LONG_COLUMNS)
    if after is not None:
        created_at, key = after
        rows = rows.filter(Q(created_at__lt=created_at) | Q(created_at=created_at, key__lt=key))
    return list(rows.order_by(*ORDERS[Order.NEWEST])[:limit])


def numbered(
    wanted: EnvironmentFilter, order: Order, *, offset: int, limit: int
) -> QuerySet[BuiltEnvironment]:
    """A page by its place in the whole list. Only the rows of the page themselves are read."""
    keys = matching(wanted).order_by(*ORDERS[order]).values("pk")[offset : offset + limit]
    return (
        BuiltEnvironment.objects.filter(pk__in=keys).defer(*LONG_COLUMNS).order_by(*ORDERS[order])
    )


def matching(wanted: EnvironmentFilter) -> QuerySet[BuiltEnvironment]:
    """In no order."""
    rows = BuiltEnvironment.objects.order_by()
    if wanted.states:
        rows = rows.filter(state__in=wanted.states)
    if wanted.python_version:
        rows = rows.filter(python_version=wanted.python_version)
    if wanted.unused_since is not None:
        rows = rows.filter(last_used_at__lt=wanted.unused_since)
    for term in wanted.terms:
        having = EnvironmentPackage.objects.filter(_package(term)).values("environment")
        rows = rows.filter(Q(pk__startswith=term.lower()) | Q(pk__in=having))
    return rows


def terms_in(text: str) -> tuple[str, ...]:
    """The words that a search is made of; `xgboost == 2.1` is one of them."""
    joined = text.replace(",", " ").replace(" == ", "==").replace("== ", "==").replace(" ==", "==")
    return tuple(dict.fromkeys(joined.split()))[:TERMS_MAX]


def _package(term: str) -> Q:
    name, _, version = term.partition("==")
    found = Q(name__startswith=canonicalize_name(name))
    return found & Q(version__startswith=version) if version else found


def disk_now() -> Disk:
    """Two queries, whatever there is."""
    counted = BuiltEnvironment.objects.order_by().values("state")
    rows = {
        row["state"]: (row["number"], row["size"] or 0)
        for row in counted.annotate(number=Count("pk"), size=Sum("size_bytes"))
    }
    ready, building, failed, gone = (
        rows.get(state, (0, 0)) for state in (State.READY, State.BUILDING, State.FAILED, State.GONE)
    )
    return Disk(
        on_disk=ready[0] + building[0],
        gone=gone[0],
        failed=failed[0],
        used_bytes=ready[1] + building[1],
        most_bytes=settings.ENVIRONMENTS_MAX_MB * MB,
        usual_build_seconds=_usual_build_seconds(),
    )


def _usual_build_seconds() -> float | None:
    built = BuiltEnvironment.objects.filter(build_seconds__isnull=False)
    newest_first = built.order_by(*ORDERS[Order.NEWEST])
    told = newest_first.values_list("build_seconds", flat=True)[:BUILDS_LOOKED_AT]
    seconds = [one for one in told if one is not None]
    return median(seconds) if seconds else None


def unused(*, days: int, now: datetime) -> Unused:
    """One query. Whether anybody has one of them at this moment is not looked up."""
    since = now - timedelta(days=days)
    rows = BuiltEnvironment.objects.filter(
        state=State.READY, last_used_at__lt=since, needed_by=[], asked=""
    )
    found = list(rows.order_by("last_used_at").values_list("key", "size_bytes"))
    return Unused(days, tuple(key for key, _ in found), sum(size for _, size in found))


def versions_in(keys: Iterable[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of the packages with these names, the version in each of these environments."""
    found: dict[str, dict[str, str]] = {key: {} for key in keys}
    packages = EnvironmentPackage.objects.filter(environment__in=found, name__in=set(names))
    for key, name, version in packages.values_list("environment", "name", "version"):
        found[key][name] = version
    return found
