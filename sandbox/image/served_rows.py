"""Rows to compare a compact form with its model by: like the training's, and where they may differ.

Made of what the model itself tells: its thresholds, its scalers' middles, its encoders' values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_columns import FLAG, NUMBER, TEXT, UNUSED
from served_inputs import Expected
from served_pandas import pandas
from served_shapes import Table
from served_steps import Domain, Origin, Origins

THRESHOLD_ROWS = 6000
WHOLE_LIMITS = {"integer": 2**31 - 1, "long": 2**53, "any": 2**53}
EXTREMES = (
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-300,
    1.0,
    -1.0,
    1e4,
    -1e4,
    1e10,
    -1e10,
    1e30,
    -1e30,
    3e38,
    -3e38,
)
MOMENT = "2024-01-15T12:00:00"


@dataclass(frozen=True)
class Source:
    """One input column: its declared type, what it is taken as, and which values it may have.

    Between `low` and `high` where trees split it, else about `middle`.
    """

    declared: str
    takes: str
    keys: tuple[Any, ...]
    low: float
    high: float
    middle: float
    spread: float
    thresholds: Any


class Samples:
    """Makes rows as the model's requests lie in memory: one matrix, or a table of columns."""

    def __init__(self, sources: Sequence[Source], expected: Expected, *, as_table: bool) -> None:
        self.sources = sources
        self._as_table = as_table
        columns = expected.columns
        self._names = None if columns is None else tuple(column.name for column in columns)
        self._rng = np.random.default_rng(11)

    def rows(self, count: int) -> Any:
        return self._laid_out([self._plain(source, count) for source in self.sources])

    def whole_numbers(self, count: int) -> Any:
        return self._laid_out(
            [
                np.rint(cells) if source.takes == NUMBER else cells
                for source, cells in ((one, self._plain(one, count)) for one in self.sources)
            ],
            whole=True,
        )

    def at_thresholds(self) -> Any:
        """Each, and its neighbours in both widths of floating point; None where there are none."""
        near = [_near(source.thresholds) for source in self.sources]
        height = min(THRESHOLD_ROWS, max(map(len, near)))
        if not height:
            return None
        columns = []
        for source, values in zip(self.sources, near, strict=True):
            if len(values):
                some = self._rng.permutation(np.resize(self._rng.permutation(values), height))
                columns.append(some)
            else:
                columns.append(self._plain(source, height))
        return self._laid_out(columns)

    def extremes(self, most: float = np.inf) -> Any:
        extremes = [value for value in EXTREMES if abs(value) <= most]
        count = 400 + len(extremes)
        columns = []
        for source in self.sources:
            cells = self._plain(source, count)
            if source.takes == NUMBER and not source.keys:
                where = self._rng.random(count) < 0.3
                cells[where] = self._rng.choice(extremes, size=int(where.sum()))
                cells[400:] = extremes
            columns.append(cells)
        return self._laid_out(columns)

    def with_gaps(self, which: Sequence[bool], count: int = 500) -> Any:
        """A fifth of the values missing in the columns named; the first rows have none of them."""
        return self._changed(which, count, _with_holes)

    def with_unknown(self, which: Sequence[bool], count: int = 500) -> Any:
        """Values that no encoder has heard of, in the columns named."""
        return self._changed(which, count, self._with_strangers)

    def _changed(
        self, which: Sequence[bool], count: int, change: Callable[[Any, Any, Source], Any]
    ) -> Any:
        """A fifth of the values in the columns named, and all of the first rows'."""
        columns = []
        for source, may in zip(self.sources, which, strict=True):
            cells = self._plain(source, count)
            if may:
                where = self._rng.random(count) < 0.2
                where[:5] = True
                cells = change(cells, where, source)
            columns.append(cells)
        return self._laid_out(columns)

    def _with_strangers(self, cells: Any, where: Any, source: Source) -> Any:
        strange = _strange(source.keys)
        picked = self._rng.integers(len(strange), size=int(where.sum()))
        cells[where] = [strange[place] for place in picked]
        return cells

    def _plain(self, source: Source, count: int) -> Any:
        if source.keys:
            places = self._rng.integers(len(source.keys), size=count)
            kind = float if source.takes == NUMBER else object
            return np.array([source.keys[place] for place in places], dtype=kind)
        if source.takes == TEXT or (source.takes == UNUSED and source.declared == "string"):
            return np.array([f"text {at}" for at in self._rng.integers(9, size=count)], object)
        if source.takes == FLAG:
            return self._rng.integers(2, size=count).astype(bool)
        if source.high > source.low:
            return self._rng.uniform(source.low, source.high, size=count)
        return source.middle + self._rng.normal(size=count) * source.spread

    def _laid_out(self, columns: list[Any], *, whole: bool = False) -> Any:
        found = zip(self.sources, columns, strict=True)
        typed = [_typed(cells, source, whole) for source, cells in found]
        if self._as_table:
            return Table(self._names, typed, len(typed[0]))
        single = all(column.dtype == np.float32 for column in typed)
        matrix = np.array(typed, dtype=np.float32 if single else np.float64).T
        return matrix if self._names is not None else np.ascontiguousarray(matrix)


def _typed(cells: Any, source: Source, whole: bool) -> Any:
    """As a request's cells become a column of that type."""
    if source.declared == "datetime":
        pd = pandas()
        return pd.Series([pd.Timestamp(MOMENT)] * len(cells))
    if source.takes == TEXT or cells.dtype == object:
        return cells if source.takes == TEXT or source.declared == "string" else _unboxed(cells)
    if source.takes == FLAG or source.declared == "boolean":
        return cells.astype(bool)
    if source.declared == "float":
        with np.errstate(over="ignore"):
            return cells.astype(np.float32)
    most = WHOLE_LIMITS.get(source.declared)
    if most is None or (source.declared == "any" and not whole):
        return cells.astype(np.float64)
    rounded = np.clip(np.rint(cells), -most, most)
    if np.isnan(rounded).any():
        return rounded
    return rounded.astype(np.int32 if source.declared == "integer" else np.int64)


def _unboxed(cells: Any) -> Any:
    kinds = set(map(type, cells.tolist()))
    return cells.astype(bool if kinds == {bool} else np.float64)


def _near(thresholds: Any) -> Any:
    values = np.unique(thresholds[np.isfinite(thresholds)])
    if not len(values):
        return values
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    ends = (-np.inf, np.inf)
    found = [
        values,
        single.astype(np.float64),
        *(np.nextafter(values, end) for end in ends),
        *(np.nextafter(single, np.float32(end)).astype(np.float64) for end in ends),
    ]
    near = np.concatenate(found)
    return near[np.isfinite(near)]


def _with_holes(cells: Any, where: Any, source: Source) -> Any:
    found = cells if cells.dtype != bool else cells.astype(object)
    found[where] = np.nan
    return found


def _strange(keys: Sequence[Any]) -> list[Any]:
    if isinstance(keys[0], str):
        key = keys[0]
        texts = ["", " ", "?", f"{key} ", f"{key}\0", key.swapcase(), "nan", "None", "x" * 300]
        return [text for text in texts if text not in keys]
    numbers = [max(keys) + 1, min(keys) - 1, max(keys) + 0.5, 1e9]
    return [number for number in numbers if number not in keys]


# -- what the columns are -------------------------------------------------------------------------


def sources_of(
    expected: Expected,
    domains: Sequence[Domain],
    origins: Origins,
    thresholds: Sequence[Any] | None,
) -> list[Source]:
    """Each input column with what the steps and the trees tell of it."""
    rng = np.random.default_rng(12)
    columns = expected.columns or ()
    declared = [column.type for column in columns] or ["any"] * len(domains)
    split: list[list[Any]] = [[] for _ in domains]
    for origin, own in zip(origins, thresholds or [], strict=False):
        if origin is not None and len(own):
            split[origin.place].append(_back(own, origin))
    found = []
    for kind, domain, own in zip(declared, domains, split, strict=True):
        magnitude = float(10 ** rng.uniform(-1, 1))
        found.append(_source(kind, domain, np.concatenate([np.zeros(0), *own]), magnitude))
    return found


def _back(values: Any, origin: Origin) -> Any:
    return values if origin == Origin(origin.place) else values * origin.scale + origin.shift


def _source(declared: str, domain: Domain, thresholds: Any, magnitude: float) -> Source:
    finite = thresholds[np.isfinite(thresholds)]
    low, high = 0.0, 0.0
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        margin = max((high - low) * 0.2, 1e-3)
        low, high = low - margin, high + margin
    return Source(
        declared=declared,
        takes=_takes(declared, domain),
        keys=tuple(dict.fromkeys(domain.keys)),
        low=low,
        high=high,
        middle=domain.middle or 0.0,
        spread=magnitude if domain.middle is None else domain.spread,
        thresholds=finite,
    )


def _takes(declared: str, domain: Domain) -> str:
    if domain.text:
        return TEXT
    if declared == "boolean" or (domain.keys and isinstance(domain.keys[0], bool)):
        return FLAG if domain.keys or domain.computed else UNUSED
    return NUMBER if domain.keys or domain.computed else UNUSED
