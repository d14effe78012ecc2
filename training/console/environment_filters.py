"""Reads the address of the list of environments; every list can be kept as a link."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.http import QueryDict

from training.console.filters import Chip, Tab, without_empty
from training.environment_listing import ON_DISK, EnvironmentFilter, Order, State, terms_in

SHOWN, STATE, PYTHON, UNUSED, TEXT, SORT, PAGE = (
    *("shown", "state", "python", "unused", "text", "sort", "page"),
)
ALL = "all"
STATES = [(state.value, str(state.label)) for state in State]
UNUSED_DAYS = {"7": "for 7 days", "30": "for 30 days", "90": "for 90 days"}
PAGES_MAX = 1000


@dataclass(frozen=True)
class Asked:
    """What an address asks for; `wrong` says what of it cannot be understood."""

    parameters: QueryDict
    wanted: EnvironmentFilter
    order: Order
    page: int
    wrong: Sequence[str] = ()

    @property
    def filters(self) -> QueryDict:
        """Without the place in the list, and without its order."""
        return _without(self.parameters, PAGE, SORT)

    def value(self, name: str) -> str:
        return self.parameters.get(name, "")

    def at_page(self, number: int) -> str:
        return _with(self.parameters, PAGE, str(number))

    def sorted_by(self, order: Order) -> str:
        return _with(_without(self.parameters, PAGE), SORT, order)


def read(parameters: QueryDict, *, now: datetime) -> Asked:
    """Without states, those on the disk are meant: those that are gone take none."""
    kept = without_empty(parameters)
    wrong = [f"There is no {name} {value!r}." for name, value in _unknown(kept)]
    state, days = kept.get(STATE, ""), kept.get(UNUSED, "")
    states: tuple[str, ...] = (state,) if state else ON_DISK
    if kept.get(SHOWN) == ALL and not state:
        states = ()
    wanted = EnvironmentFilter(
        states=states,
        python_version=kept.get(PYTHON, ""),
        terms=terms_in(kept.get(TEXT, "")),
        unused_since=now - timedelta(days=int(days)) if days in UNUSED_DAYS else None,
    )
    sort = kept.get(SORT, Order.USED)
    order = Order(sort) if sort in tuple(Order) else Order.USED
    return Asked(kept, wanted, order, _page(kept.get(PAGE, "1")), wrong)


def chips_of(asked: Asked) -> list[Chip]:
    words = {STATE: dict(STATES), UNUSED: UNUSED_DAYS}
    return [
        Chip(
            name,
            words.get(name, {}).get(value, value),
            f"?{_without(asked.filters, name).urlencode()}",
        )
        for name in (STATE, PYTHON, UNUSED, TEXT)
        if (value := asked.value(name))
    ]


def tabs_of(asked: Asked) -> list[Tab]:
    lists = {"On the disk": {}, "Gone": {STATE: State.GONE.value}, "All": {SHOWN: ALL}}
    shown = asked.filters.dict()
    tabs = []
    for words, filters in lists.items():
        query = QueryDict(mutable=True)
        query.update(filters)
        tabs.append(Tab(words, f"?{query.urlencode()}", shown == filters))
    return tabs


def choices_of(asked: Asked) -> list[dict[str, object]]:
    """The lists to choose from."""
    pythons = [(version, f"Python {version}") for version in settings.PYTHON_VERSIONS]
    lists = {
        "State": (STATE, STATES),
        "Python": (PYTHON, pythons),
        "Unused": (UNUSED, list(UNUSED_DAYS.items())),
    }
    return [
        {"words": words, "name": name, "value": asked.value(name), "options": options}
        for words, (name, options) in lists.items()
    ]


def _unknown(kept: QueryDict) -> list[tuple[str, str]]:
    known: dict[str, tuple[str, ...]] = {
        STATE: tuple(State.values),
        UNUSED: tuple(UNUSED_DAYS),
        SHOWN: (ALL,),
        SORT: tuple(Order),
    }
    return [
        (name, value)
        for name, values in known.items()
        if (value := kept.get(name, "")) and value not in values
    ]


def _page(value: str) -> int:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 1
    return min(max(1, number), PAGES_MAX)


def _with(parameters: QueryDict, name: str, value: str) -> str:
    changed = parameters.copy()
    changed[name] = value
    return f"?{changed.urlencode()}"


def _without(parameters: QueryDict, *names: str) -> QueryDict:
    kept = parameters.copy()
    for name in names:
        kept.pop(name, None)
    return kept
