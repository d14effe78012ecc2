"""Reads the address of the list of jobs: the API's own filters, and dates as one says them.

Whatever is chosen is in the address, so that every list can be kept as a link and sent to others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import QueryDict

from registry.list_queries import ParametersRejected
from training.api.queries import PARAMETERS, JobQuery, read_query
from training.day import reason_words
from training.states import ENDINGS, Reason, Status

DATE = "date"
DATES: dict[str, tuple[str, timedelta]] = {
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(hours=24)),
    "7d": ("last 7 days", timedelta(days=7)),
    "30d": ("last 30 days", timedelta(days=30)),
}
# What says where in the list one is, and not which list it is.
PLACE = ("cursor", "limit")
STATUSES = [(status.value, str(status.label)) for status in Status]
REASONS = [
    (reason.value, reason_words(reason))
    for reason in Reason
    if ENDINGS[reason].status == Status.FAILED
]
DATE_CHOICES = [(name, words) for name, (words, _) in DATES.items()]


@dataclass(frozen=True)
class Chip:
    """One filter that is on: `without` is the address of the list without it."""

    name: str
    value: str
    without: str


@dataclass(frozen=True)
class Tab:
    """A list that is often wanted."""

    words: str
    address: str
    current: bool


@dataclass(frozen=True)
class Asked:
    """What an address asks for; `query` is None when something of it is wrong, which `wrong` says.

    `parameters` are those that say something: a form sends its empty fields too.
    """

    parameters: QueryDict
    query: JobQuery | None
    wrong: Sequence[str] = ()

    @property
    def filters(self) -> QueryDict:
        """Without the place in the list."""
        kept = self.parameters.copy()
        for name in PLACE:
            kept.pop(name, None)
        return kept

    def value(self, name: str) -> str:
        return self.parameters.get(name, "")


def without_empty(parameters: QueryDict) -> QueryDict:
    """A copy with the fields that were filled in."""
    kept = QueryDict(mutable=True)
    for name, values in parameters.lists():
        filled = [value for value in values if value.strip()]
        if filled:
            kept.setlist(name, filled)
    return kept


def read(parameters: QueryDict, *, now: datetime) -> Asked:
    kept = without_empty(parameters)
    asked = kept.copy()
    chosen = asked.pop(DATE, [])
    unknown = [f"There is no date {name!r}." for name in chosen if name not in DATES]
    if unknown:
        return Asked(kept, None, unknown)
    if chosen:
        # The shortest, should an address hold several.
        since = now - min(DATES[name][1] for name in chosen)
        asked["created_after"] = since.isoformat()
    try:
        return Asked(kept, read_query(asked))
    except ParametersRejected as rejected:
        told = [f"{error['field']}: {error['detail']} {error['hint']}" for error in rejected.errors]
        return Asked(kept, None, told)


def chips_of(asked: Asked) -> list[Chip]:
    return list(_chips(asked.filters))


def _chips(filters: QueryDict) -> Iterator[Chip]:
    for name in (*PARAMETERS, DATE):
        for value in filters.getlist(name):
            without = filters.copy()
            left = [other for other in filters.getlist(name) if other != value]
            without.setlist(name, left)
            yield Chip(name.replace("_", " "), _words(name, value), f"?{without.urlencode()}")


def _words(name: str, value: str) -> str:
    if name == DATE and value in DATES:
        return DATES[value][0]
    return reason_words(value).lower() if name == "reason" else value


def tabs_of(asked: Asked, *, me: str) -> list[Tab]:
    lists = {
        "All": {},
        "Running": {"status": "running"},
        "Waiting": {"status": "queued"},
        "Failed today": {"status": "failed", DATE: "24h"},
        "Mine": {"owner": me},
    }
    shown = {name: asked.filters.getlist(name) for name in asked.filters}
    return [
        Tab(
            words,
            f"?{_query(filters).urlencode()}",
            shown == {name: [value] for name, value in filters.items()},
        )
        for words, filters in lists.items()
    ]


def _query(filters: dict[str, str]) -> QueryDict:
    query = QueryDict(mutable=True)
    query.update(filters)
    return query
