"""Turns the `inputs` of a prediction into typed columns; says what was expected and what came.

Runs inside the model container. It never guesses: an input that fits in two ways is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from served_shapes import ERRORS_SHOWN, InputsRefused, Table, listed, more, shaped, shown

T = TypeVar("T")
FLOATING = frozenset({"double", "float"})
WHOLE = frozenset({"long", "integer"})
NUMBERS = frozenset({int, float, bool, type(None)})
MAX_ROWS = 100_000


@dataclass(frozen=True)
class Column:
    """A column that the model was trained on; `type` is "any" when nobody wrote it down."""

    name: str
    type: str = "any"
    required: bool = True


@dataclass(frozen=True)
class Expected:
    """What a model takes. With neither columns nor a count, every table is let through."""

    columns: tuple[Column, ...] | None = None
    n_features: int | None = None
    # No column can be text: the model computes with its inputs as they are.
    numbers_only: bool = False
    # LightGBM writes `mean radius` down as `mean_radius`.
    spaces_become_underscores: bool = False
    # A model's own code may take lists and objects as cells.
    nested_cells: bool = False


def read_table(inputs: Any, expected: Expected) -> Table:
    """The inputs as typed columns in the model's order. Raises InputsRefused, with all problems."""
    try:
        whole = shaped(inputs)
    except InputsRefused as error:
        raise _with_names(error, inputs, expected) from error
    table, refused = _matched(whole, expected)
    if table.rows > MAX_ROWS:
        detail = f"`inputs` has {table.rows} rows; at most {MAX_ROWS} are answered at once."
        raise InputsRefused("too_many_rows", detail, [("inputs", detail)])
    typed, errors = _typed(table, expected)
    if errors:
        others = f" (and {more(len(errors) - 1)})" if len(errors) > 1 else ""
        wrong = InputsRefused("wrong_type", f"{errors[0][0]}: {errors[0][1]}{others}", errors)
        refused = wrong if refused is None else refused.beside(wrong)
    if refused is not None:
        raise refused
    return typed


def check_probabilities(wanted: bool, has: bool, name: str) -> InputsRefused | None:
    """What is wrong with the wish for probabilities; it is told beside what the inputs lack."""
    if not wanted or has:
        return None
    return InputsRefused(
        "no_probabilities",
        f"This model ({name}) has no probabilities; "
        "send the request without `return_probabilities`.",
        [("return_probabilities", f"{name} has no probabilities")],
    )


def told_together(refused: InputsRefused | None, read: Callable[[], T]) -> T:
    """What `read` gives. Raises InputsRefused: what is known already, and what `read` finds."""
    if refused is None:
        return read()
    try:
        read()
    except InputsRefused as other:
        raise other.beside(refused) from other
    raise refused


def read_matrix(inputs: Any, expected: Expected) -> Any:
    """What is plainly a matrix of numbers, in microseconds; None for `read_table` to look at.

    Equal, to the bit and in its order in memory, to what `read_table` makes of it: with names it
    lies column by column, as a table of pandas does, and row by row without.
    """
    if expected.columns is None:
        return _plain_rows(inputs, expected.n_features)
    if not all(column.type in ("any", "double") for column in expected.columns):
        return None
    names = [column.name for column in expected.columns]
    return _plain_columns(_columns_of(inputs, names), len(names))


def _plain_rows(inputs: Any, width: int | None) -> Any:
    if not isinstance(inputs, list) or not inputs or len(inputs) > MAX_ROWS:
        return None
    if set(map(type, inputs)) != {list} or len(set(map(len, inputs))) != 1:
        return None
    if not inputs[0] or width not in (None, len(inputs[0])):
        return None
    if not set(map(type, chain.from_iterable(inputs))) <= NUMBERS:
        return None
    return np.array(inputs, dtype=np.float64)


def _columns_of(inputs: Any, names: list[str]) -> list[Any] | None:
    if isinstance(inputs, dict):
        if len(inputs) != len(names):
            return None
        columns = [inputs.get(name) for name in names]
        return columns if set(map(type, columns)) == {list} else None
    if not isinstance(inputs, list) or not inputs:
        return None
    kinds = set(map(type, inputs))
    if kinds not in ({list}, {dict}) or set(map(len, inputs)) != {len(names)}:
        return None
    if kinds == {list}:
        return list(zip(*inputs, strict=True))
    if not all(name in record for record in inputs for name in names):
        return None
    return [[record[name] for record in inputs] for name in names]


def _plain_columns(columns: list[Any] | None, width: int) -> Any:
    if not columns or len(columns) != width or len(set(map(len, columns))) != 1:
        return None
    if not columns[0] or len(columns[0]) > MAX_ROWS:
        return None
    if not set(map(type, chain.from_iterable(columns))) <= NUMBERS:
        return None
    return np.array(columns, dtype=np.float64).T


# -- the model's columns ------------------------------------------------------------------------


def _matched(table: Table, expected: Expected) -> tuple[Table, InputsRefused | None]:
    """The columns that can be told apart, for their cells to be looked at, and what is wrong."""
    if expected.columns is None:
        return table, _wrong_count(table, expected.n_features)
    if table.names is not None:
        return _by_name(table, expected, expected.columns)
    names = tuple(item.name for item in expected.columns)
    wrong = _wrong_count(table, len(names), names=names)
    if wrong is not None:
        # Whose cells these are nobody knows.
        return Table((), [], table.rows), wrong
    return Table(names, table.columns, table.rows), None


def _with_names(refused: InputsRefused, inputs: Any, expected: Expected) -> InputsRefused:
    """Columns that are no table may have wrong names too."""
    if expected.columns is None or not isinstance(inputs, dict) or not inputs:
        return refused
    names = Table(tuple(inputs), [[] for _ in inputs], 0)
    other = _by_name(names, expected, expected.columns)[1]
    return refused if other is None else refused.beside(other)


def _wrong_count(
    table: Table, count: int | None, names: Sequence[str] = ()
) -> InputsRefused | None:
    got = len(table.columns)
    if count is None or got == count:
        return None
    came = f": {listed(table.names)}" if table.names else ""
    wanted = f" ({listed(names)})" if names else ""
    return InputsRefused(
        "wrong_column_count",
        f"expected {count} features{wanted}, got {got}{came}",
        [("inputs", f"expected {count} features, got {got}")],
    )


def _by_name(
    table: Table, expected: Expected, columns: tuple[Column, ...]
) -> tuple[Table, InputsRefused | None]:
    names = table.names or ()
    position = {name: index for index, name in enumerate(names)}
    if expected.spaces_become_underscores:
        position = {name.replace(" ", "_"): index for name, index in position.items()} | position
    used = {position[item.name] for item in columns if item.name in position}
    missing = [item.name for item in columns if item.required and item.name not in position]
    unexpected = [name for index, name in enumerate(names) if index not in used]
    refused = None
    if missing or unexpected:
        refused = _mismatch([item.name for item in columns], names, missing, unexpected)
    empty = [None] * table.rows
    ordered = [
        table.columns[position[item.name]] if item.name in position else empty for item in columns
    ]
    return Table(tuple(item.name for item in columns), ordered, table.rows), refused


def _mismatch(
    wanted: Sequence[str], came: Sequence[str], missing: Sequence[str], unexpected: Sequence[str]
) -> InputsRefused:
    parts = [f"expected columns {listed(wanted)}", f"got {listed(came)}"]
    if missing:
        parts.append(f"missing: {listed(missing)}")
    if unexpected:
        parts.append(f"unexpected: {listed(unexpected)}")
    errors = [(f"inputs.{name}", "missing") for name in missing]
    errors += [(f"inputs.{name}", "the model has no such column") for name in unexpected]
    return InputsRefused("columns_mismatch", "; ".join(parts), errors)


# -- types --------------------------------------------------------------------------------------


def _typed(table: Table, expected: Expected) -> tuple[Table, list[tuple[str, str]]]:
    """The typed columns, and every cell that does not fit."""
    errors: list[tuple[str, str]] = []
    columns = []
    for index, values in enumerate(table.columns):
        name = table.names[index] if table.names else str(index)
        wanted = expected.columns[index].type if expected.columns else "any"
        if wanted == "any" and expected.numbers_only:
            wanted = "number"
        columns.append(_column(name, values, wanted, expected, errors))
    return Table(table.names, columns, table.rows), errors


def _column(
    name: str, values: list[Any], wanted: str, expected: Expected, errors: list[tuple[str, str]]
) -> Any:
    """One typed column; what does not fit is added to `errors`, cell by cell."""
    before = len(errors)
    kinds = set(map(type, values)) - {type(None)}
    if wanted in FLOATING | WHOLE | {"number"}:
        _need(name, values, errors, kinds <= {int, float, bool}, _is_number, "a number")
        if wanted in WHOLE and float in kinds:
            _need(name, values, errors, False, _is_whole, "a whole number")
    elif wanted == "boolean":
        _need(name, values, errors, kinds <= {bool}, lambda cell: isinstance(cell, bool), "a bool")
    elif wanted in ("string", "datetime"):
        _need(name, values, errors, kinds <= {str}, lambda cell: isinstance(cell, str), "text")
    elif wanted == "any" and not expected.nested_cells:
        _need(name, values, errors, not kinds & {list, dict}, _is_scalar, "a single value")
    if len(errors) > before:
        return None
    if wanted == "datetime":
        return _moments(name, values, errors)
    return _array(values, kinds, wanted)


def _need(
    name: str, values: list[Any], errors: list[tuple[str, str]], fits: bool, test: Any, noun: str
) -> None:
    """`fits` answers for the whole column, from its types; cells are looked at only if not."""
    if fits or len(errors) >= ERRORS_SHOWN:
        return
    for row, cell in enumerate(values):
        if cell is not None and not test(cell):
            errors.append((f"inputs.{name}", f"row {row}: expected {noun}, got {shown(cell)}"))
            if len(errors) >= ERRORS_SHOWN:
                return


def _array(values: list[Any], kinds: set[type], wanted: str) -> Any:
    nulls = any(cell is None for cell in values)
    if kinds <= {int, float, bool} and wanted != "string":
        if wanted == "float":
            return _floats(values, np.float32)
        if kinds == {bool} and not nulls and wanted in ("any", "boolean"):
            return np.array(values, dtype=bool)
        if not nulls and (kinds == {int} or wanted in WHOLE) and wanted not in FLOATING:
            return _integers(values, wanted)
        return _floats(values, np.float64)
    filled = [np.nan if cell is None else cell for cell in values] if nulls else values
    array = np.empty(len(filled), dtype=object)
    array[:] = filled
    return array


def _integers(values: list[Any], wanted: str) -> Any:
    kind = np.int32 if wanted == "integer" else np.int64
    try:
        return np.array([int(cell) for cell in values], dtype=kind)
    except OverflowError:
        return _floats(values, np.float64)


def _floats(values: list[Any], kind: Any) -> Any:
    return np.array([np.nan if cell is None else cell for cell in values], dtype=kind)


def _moments(name: str, values: list[Any], errors: list[tuple[str, str]]) -> Any:
    # Here and not above: a model in its compact form never needs pandas, which takes 0.5 s.
    import pandas as pd  # noqa: PLC0415

    moments = pd.to_datetime(pd.Series(values, dtype=object), errors="coerce", format="ISO8601")
    for row in np.flatnonzero(moments.isna().to_numpy()):
        if values[row] is not None:
            text = f"row {row}: expected an ISO 8601 time, got {shown(values[row])}"
            errors.append((f"inputs.{name}", text))
    return moments


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _is_whole(cell: Any) -> bool:
    """What is no number was told already."""
    return not isinstance(cell, float) or cell.is_integer()


def _is_scalar(cell: Any) -> bool:
    return not isinstance(cell, list | dict)
