"""Columns of a request on their way to a matrix: imputers, encoders and scalers as plain numpy.

It does what scikit-learn's own do, in the order in which they do it, and nothing else: what they
would refuse, and what nobody compared, is left to the original. No pandas, no scikit-learn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_shapes import Table

FLOAT32_MAX = float(np.finfo(np.float32).max)
# Beyond it not every whole number is a floating one.
WHOLE_MAX = 2**53
# Pipelines within branches within pipelines; a file that goes deeper is none of ours.
DEEPEST = 8
WIDEST = 100_000
# What a column is taken as; a column that no step looks at is not looked at here either.
NUMBER, TEXT, FLAG, UNUSED = "number", "text", "flag", ""
Transform = Callable[[Any], Any]
Arrays = Mapping[str, Any]
Document = Mapping[str, Any]


class LeftToOriginal(Exception):
    """Only the original says what becomes of these inputs."""


class StepUnknown(Exception):
    """The file names a step that there is not."""


@dataclass(frozen=True)
class Columns:
    """Columns before they are numbers: an array where they are, a list where they are text."""

    cells: list[Any]
    rows: int

    def __len__(self) -> int:
        return self.rows


def admitted(table: Table, takes: Sequence[str], gaps: Sequence[bool]) -> Columns | None:
    """The cells, where every column is of a kind that was compared; else None.

    `gaps` says of each column whether values may be missing.
    """
    cells = []
    for column, kind, may in zip(table.columns, takes, gaps, strict=True):
        found = column if kind == UNUSED else _ADMIT[kind](column, may)
        if found is None:
            return None
        cells.append(found)
    return Columns(cells, table.rows)


def _numbers(column: Any, may_miss: bool) -> Any:
    kind = column.dtype.kind
    if kind not in "fi":
        return None
    largest = np.abs(column).max()
    if kind == "i":
        return column if column.min() >= -WHOLE_MAX and column.max() <= WHOLE_MAX else None
    if largest <= FLOAT32_MAX:
        return column
    if not may_miss or not np.isnan(largest):
        return None
    return column if np.nanmax(np.abs(column), initial=0) <= FLOAT32_MAX else None


def _texts(column: Any, may_miss: bool) -> Any:
    if column.dtype.kind != "O":
        return None
    cells = column.tolist()
    kinds = set(map(type, cells))
    if kinds == {str}:
        return cells
    if not may_miss or not kinds <= {str, float}:
        return None
    missing = all(cell != cell for cell in cells if type(cell) is float)
    return cells if missing else None


def _flags(column: Any, may_miss: bool) -> Any:
    return column if column.dtype.kind == "b" else None


_ADMIT: Mapping[str, Callable[[Any, bool], Any]] = {
    NUMBER: _numbers,
    TEXT: _texts,
    FLAG: _flags,
}


# -- steps ----------------------------------------------------------------------------------------


def planned(steps: Sequence[Document], arrays: Arrays, deep: int = 0) -> Transform:
    """All steps as one. Raises StepUnknown, KeyError, TypeError, ValueError for what is none."""
    if deep > DEEPEST:
        raise StepUnknown("Its steps lie too deep.")
    made = [_STEPS[step["kind"]](step, arrays, deep) for step in steps]

    def through(state: Any) -> Any:
        for one in made:
            state = one(state)
        return state

    return through


def as_matrix(state: Any) -> Any:
    """In single precision where all columns are, as pandas and numpy have it."""
    if isinstance(state, np.ndarray):
        return state
    if any(isinstance(column, list) for column in state.cells):
        raise LeftToOriginal
    single = bool(state.cells) and all(column.dtype == np.float32 for column in state.cells)
    kind = np.float32 if single else np.float64
    matrix = np.empty((state.rows, len(state.cells)), dtype=kind, order="F")
    for place, column in enumerate(state.cells):
        matrix[:, place] = column
    return matrix


def _standard(step: Document, arrays: Arrays, deep: int) -> Transform:
    first, second = arrays.get(f"{step['at']}_a"), arrays.get(f"{step['at']}_b")

    def scaled(state: Any) -> Any:
        rows = as_matrix(state)
        if first is not None:
            rows = rows - first.astype(rows.dtype, copy=False)
        return rows if second is None else rows / second.astype(rows.dtype, copy=False)

    return scaled


def _minmax(step: Document, arrays: Arrays, deep: int) -> Transform:
    first, second = arrays[f"{step['at']}_a"], arrays[f"{step['at']}_b"]

    def scaled(state: Any) -> Any:
        rows = as_matrix(state)
        kind = rows.dtype
        return rows * first.astype(kind, copy=False) + second.astype(kind, copy=False)

    return scaled


def _impute(step: Document, arrays: Arrays, deep: int) -> Transform:
    """Numbers for missing ones; columns that were empty in training go; marks follow, if any."""
    values, keep = arrays[f"{step['at']}_a"], arrays[f"{step['at']}_b"].astype(np.int64)
    marks = arrays[f"{step['at']}_c"].astype(np.int64)
    sign = step["missing"]

    def filled(state: Any) -> Any:
        rows = as_matrix(state)
        missing = np.isnan(rows) if sign is None else rows == sign
        found = np.where(missing, values.astype(rows.dtype, copy=False), rows)[:, keep]
        return np.hstack([found, missing[:, marks].astype(found.dtype)]) if len(marks) else found

    return filled


def _fill(step: Document, arrays: Arrays, deep: int) -> Transform:
    """Text for missing text, in each column its own."""
    fills = step["fills"]

    def filled(state: Any) -> Any:
        cells = []
        for column, fill in zip(state.cells, fills, strict=True):
            if not isinstance(column, list):
                raise LeftToOriginal
            cells.append([cell if type(cell) is str else fill for cell in column])
        return Columns(cells, state.rows)

    return filled


class _Keys:
    """The place of each known value of one column, of what is unknown, and of what is missing."""

    def __init__(self, known: Document) -> None:
        self._places = {key: place for place, key in enumerate(known["keys"])}
        self._text = all(isinstance(key, str) for key in known["keys"])
        self._unknown = len(self._places) if known["unknown"] else None
        self._missing = len(self._places) + 1 if known["missing"] else None

    def places(self, column: Any) -> list[int]:
        """Raises LeftToOriginal for a value that the original refuses."""
        text = isinstance(column, list)
        if text is not self._text:
            raise LeftToOriginal
        get = self._places.get
        found = [get(cell) for cell in (column if text else column.tolist())]
        if None in found:
            found = [
                self._other(cell) if place is None else place
                for cell, place in zip(column, found, strict=True)
            ]
        return found  # type: ignore[return-value]

    def _other(self, cell: Any) -> int:
        place = self._unknown if cell == cell else self._missing
        if place is None:
            raise LeftToOriginal
        return place


def _columns_in(state: Any) -> list[Any]:
    if isinstance(state, np.ndarray):
        return [state[:, place] for place in range(state.shape[1])]
    return list(state.cells)


def _lookup(step: Document, arrays: Arrays, deep: int) -> Transform:
    """An encoder: for each value of a column a row of numbers, side by side."""
    keys = [_Keys(known) for known in step["columns"]]
    tables = [arrays[f"{step['at']}_{place}"] for place in range(len(keys))]

    def looked_up(state: Any) -> Any:
        found = zip(tables, keys, _columns_in(state), strict=True)
        return np.hstack([table[own.places(column)] for table, own, column in found])

    return looked_up


def _one_hot(step: Document, arrays: Arrays, deep: int) -> Transform:
    """As an encoder, with nothing but a single one in a row; -1 where there is none."""
    keys = [_Keys(known) for known in step["columns"]]
    spots = [arrays[f"{step['at']}_{place}"].astype(np.int64) for place in range(len(keys))]
    width = int(step["width"])
    if not 0 < width <= WIDEST or any(own.min() < -1 or own.max() >= width for own in spots):
        raise StepUnknown("Its encoder is too wide.")

    def encoded(state: Any) -> Any:
        # One column more, for those that are nowhere.
        ones = np.zeros((len(state), width + 1))
        rows = np.arange(len(state))
        for own, spot, column in zip(keys, spots, _columns_in(state), strict=True):
            ones[rows, spot[own.places(column)]] = 1.0
        return ones[:, :width]

    return encoded


def _split(step: Document, arrays: Arrays, deep: int) -> Transform:
    """Each branch takes its own columns; what they give stands side by side."""
    branches = [
        (branch["columns"], planned(branch["steps"], arrays, deep + 1))
        for branch in step["branches"]
    ]

    def joined(state: Any) -> Any:
        parts = [as_matrix(plan(_some(state, places))) for places, plan in branches]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    return joined


def _some(state: Any, places: Sequence[int]) -> Any:
    if isinstance(state, np.ndarray):
        return state[:, places]
    return Columns([state.cells[place] for place in places], state.rows)


def _numbers_now(step: Document, arrays: Arrays, deep: int) -> Transform:
    return as_matrix


_STEPS: Mapping[str, Callable[[Document, Arrays, int], Transform]] = {
    "standard": _standard,
    "minmax": _minmax,
    "impute": _impute,
    "fill": _fill,
    "lookup": _lookup,
    "one_hot": _one_hot,
    "split": _split,
    "numbers": _numbers_now,
}
