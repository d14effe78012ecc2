"""What takes no new work: looked at by whatever begins some, in every room.

Written by `training.services.admission` alone.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from django.db.models import Exists, Model, QuerySet, Subquery

from registry.models import Hold

ADMISSION = "admission"
TOLD = ("by", "since", "why")
Row = TypeVar("Row", bound=Model)


class Held(StrEnum):
    """Why nothing new is begun, as waiting work says it (`waiting_for`)."""

    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True)
class HeldBy:
    """By whose word, since when, and what they said about it."""

    held: Held
    by: str
    since: datetime
    why: str


@dataclass(frozen=True)
class Admission:
    """Whether an engine takes new work: None where nobody said otherwise."""

    paused: HeldBy | None = None
    draining: HeldBy | None = None

    @property
    def first(self) -> HeldBy | None:
        """What is told of it where there is room for one word; None while it takes work."""
        return self.paused or self.draining


OPEN = Admission()


def name_of(engine: str) -> str:
    return f"engine:{engine}"


def admission(engine: str) -> Admission:
    """What holds for an engine now; one query."""
    names = _names(engine)
    rows = {row.name: row for row in Hold.objects.filter(name__in=names.values())}
    told = {
        held: HeldBy(held, row.by, row.since, row.why)
        for held, name in names.items()
        if (row := rows.get(name)) is not None
    }
    return Admission(told.get(Held.PAUSED), told.get(Held.DRAINING))


def with_admission(rows: QuerySet[Row], engine: str) -> QuerySet[Any]:
    """The same beside rows of something else, without a query of its own: `admission_of`."""
    values = {
        f"{held}_{field}": Subquery(Hold.objects.filter(name=name).values(field)[:1])
        for held, name in _names(engine).items()
        for field in TOLD
    }
    return rows.annotate(**values)


def admission_of(row: Any) -> Admission:
    """Of a row that `with_admission` found."""
    told = {
        held: HeldBy(held, *(getattr(row, f"{held}_{field}") for field in TOLD))
        for held in Held
        if getattr(row, f"{held}_since") is not None
    }
    return Admission(told.get(Held.PAUSED), told.get(Held.DRAINING))


def on(engine: str) -> Exists:
    """For a query that is to find nothing while the engine takes no new work."""
    return Exists(Hold.objects.filter(name__in=_names(engine).values()))


def is_draining(engine: str) -> bool:
    """Whether an engine is to come to its end: it gets no build either."""
    return Hold.objects.filter(name=name_of(engine)).exists()


def _names(engine: str) -> dict[Held, str]:
    return {Held.PAUSED: ADMISSION, Held.DRAINING: name_of(engine)}
