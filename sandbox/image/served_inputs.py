"""Turns the `inputs` of a prediction into typed columns; says what was expected and what came.

Runs inside the model container. It never guesses: an input that fits in two ways is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

ERRORS_SHOWN = 20
NAMES_SHOWN = 50
TEXT_SHOWN = 60
FLOATING = frozenset({"double", "float"})
WHOLE = frozenset({"long", "integer"})
SHAPES = 'columns {"age": [25, 35]}, records [{"age": 25}, {"age": 35}], or rows [[25], [35]]'
SPLIT = frozenset({"columns", "data"})
NUMBERS = frozenset({int, float, bool, type(None)})
MAX_ROWS = 100_000


class InputsRefused(Exception):
    """The inputs do not fit the model; `detail` is one sentence, `errors` name single places."""

    def __init__(self, code: str, detail: str, errors: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = [{"field": place, "detail": text} for place, text in errors][:ERRORS_SHOWN]


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


@dataclass(frozen=True)
class Table:
    """Named, or positional, columns of equal length, before and after typing."""

    names: tuple[str, ...] | None
    columns: list[Any]
    rows: int = field(default=0)


def read_table(inputs: Any, expected: Expected) -> Table:
    """The inputs as typed columns in the model's order. Raises InputsRefused."""
    table = _matched(_shaped(inputs), expected)
    if table.rows > MAX_ROWS:
        detail = f"`inputs` has {table.rows} rows; at most {MAX_ROWS} are answered at once."
        raise InputsRefused("too_many_rows", detail, [("inputs", detail)])
    return _typed(table, expected)


def check_probabilities(wanted: bool, has: bool, name: str) -> None:
    """Raises InputsRefused."""
    if wanted and not has:
        raise InputsRefused(
            "no_probabilities",
            f"This model ({name}) has no probabilities; "
            "send the request without `return_probabilities`.",
            [("return_probabilities", f"{name} has no probabilities")],
        )


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


# -- the shapes ---------------------------------------------------------------------------------


def _shaped(inputs: Any) -> Table:
    if isinstance(inputs, dict):
        return _from_split(inputs) if _is_split(inputs) else _from_columns(inputs)
    if not isinstance(inputs, list):
        raise _unknown_shape(f"`inputs` must be {SHAPES}.")
    if not inputs:
        raise _empty("`inputs` is empty: send at least one row.")
    if all(isinstance(row, dict) for row in inputs):
        return _from_records(inputs)
    if all(isinstance(row, list) for row in inputs):
        return _from_rows(inputs)
    raise _unknown_shape(f"`inputs` is a list of {_kinds(inputs)}; it must be {SHAPES}.")


def _is_split(inputs: dict[str, Any]) -> bool:
    """Names and rows apart; a model with columns of these very names gets them as columns."""
    if not inputs.keys() >= SPLIT or not inputs.keys() <= SPLIT | {"index"}:
        return False
    names, rows = inputs["columns"], inputs["data"]
    return (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) for row in rows)
    )


def _from_split(inputs: dict[str, Any]) -> Table:
    names, rows = inputs["columns"], inputs["data"]
    if not rows:
        raise _empty("`inputs.data` is empty: send at least one row.")
    table = _from_rows(rows)
    if len(set(names)) != len(names) or len(names) != len(table.columns):
        detail = (
            f"`inputs.columns` must name each of the {len(table.columns)} columns once; "
            f"it has {_listed(names)}."
        )
        raise InputsRefused("inputs_ragged", detail, [("inputs.columns", detail)])
    return Table(tuple(names), table.columns, table.rows)


def _unknown_shape(detail: str) -> InputsRefused:
    return InputsRefused("inputs_unknown_shape", detail, [("inputs", detail)])


def _empty(detail: str) -> InputsRefused:
    return InputsRefused("inputs_empty", detail, [("inputs", detail)])


def _from_columns(inputs: dict[str, Any]) -> Table:
    if not inputs:
        raise _empty("`inputs` is empty: send at least one column.")
    single = [name for name, values in inputs.items() if not isinstance(values, list)]
    if single:
        raise InputsRefused(
            "inputs_unknown_shape",
            f"Each column of `inputs` must be a list; these are not: {_listed(single)}. "
            "One row is sent as a list of one object.",
            [(f"inputs.{name}", f"expected a list, got {_kind(inputs[name])}") for name in single],
        )
    lengths = {name: len(values) for name, values in inputs.items()}
    if len(set(lengths.values())) > 1:
        raise InputsRefused(
            "inputs_ragged",
            "The columns of `inputs` differ in length: "
            + _listed([f"{name} has {length}" for name, length in lengths.items()])
            + ".",
            [(f"inputs.{name}", _values(length)) for name, length in lengths.items()],
        )
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise _empty("The columns of `inputs` are empty: send at least one row.")
    return Table(names=tuple(inputs), columns=list(inputs.values()), rows=rows)


def _from_records(inputs: list[dict[str, Any]]) -> Table:
    names = tuple(inputs[0])
    if not names:
        raise _empty("The records of `inputs` have no fields: send at least one.")
    wanted = set(names)
    errors = [
        (f"inputs[{index}]", _difference(names, record))
        for index, record in enumerate(inputs)
        if record.keys() != wanted
    ]
    if errors:
        raise InputsRefused(
            "inputs_ragged",
            f"The records of `inputs` differ in their fields: record 0 has {_listed(names)}; "
            f"record {errors[0][0][7:-1]} {errors[0][1]}.",
            errors,
        )
    columns = [[record[name] for record in inputs] for name in names]
    return Table(names=names, columns=columns, rows=len(inputs))


def _from_rows(inputs: list[list[Any]]) -> Table:
    width = len(inputs[0])
    errors = [
        (f"inputs[{index}]", _values(len(row)))
        for index, row in enumerate(inputs)
        if len(row) != width
    ]
    if errors:
        raise InputsRefused(
            "inputs_ragged",
            f"The rows of `inputs` differ in length: row 0 has {_values(width)}, "
            f"row {errors[0][0][7:-1]} has {errors[0][1]}.",
            errors,
        )
    if width == 0:
        raise _empty("The rows of `inputs` are empty: send at least one value in each.")
    return Table(
        names=None, columns=[list(column) for column in zip(*inputs, strict=True)], rows=len(inputs)
    )


# -- the model's columns ------------------------------------------------------------------------


def _matched(table: Table, expected: Expected) -> Table:
    if expected.columns is None:
        _check_count(table, expected.n_features)
        return table
    if table.names is None:
        _check_count(table, len(expected.columns), names=[item.name for item in expected.columns])
        return Table(tuple(item.name for item in expected.columns), table.columns, table.rows)
    return _by_name(table, expected, expected.columns)


def _check_count(table: Table, count: int | None, names: Sequence[str] = ()) -> None:
    got = len(table.columns)
    if count is None or got == count:
        return
    came = f": {_listed(table.names)}" if table.names else ""
    wanted = f" ({_listed(names)})" if names else ""
    raise InputsRefused(
        "wrong_column_count",
        f"expected {count} features{wanted}, got {got}{came}",
        [("inputs", f"expected {count} features, got {got}")],
    )


def _by_name(table: Table, expected: Expected, columns: tuple[Column, ...]) -> Table:
    names = table.names or ()
    position = {name: index for index, name in enumerate(names)}
    if expected.spaces_become_underscores:
        position = {name.replace(" ", "_"): index for name, index in position.items()} | position
    used = {position[item.name] for item in columns if item.name in position}
    missing = [item.name for item in columns if item.required and item.name not in position]
    unexpected = [name for index, name in enumerate(names) if index not in used]
    if missing or unexpected:
        raise _mismatch([item.name for item in columns], names, missing, unexpected)
    empty = [None] * table.rows
    ordered = [
        table.columns[position[item.name]] if item.name in position else empty for item in columns
    ]
    return Table(tuple(item.name for item in columns), ordered, table.rows)


def _mismatch(
    wanted: Sequence[str], came: Sequence[str], missing: Sequence[str], unexpected: Sequence[str]
) -> InputsRefused:
    parts = [f"expected columns {_listed(wanted)}", f"got {_listed(came)}"]
    if missing:
        parts.append(f"missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"unexpected: {_listed(unexpected)}")
    errors = [(f"inputs.{name}", "missing") for name in missing]
    errors += [(f"inputs.{name}", "the model has no such column") for name in unexpected]
    return InputsRefused("columns_mismatch", "; ".join(parts), errors)


# -- types --------------------------------------------------------------------------------------


def _typed(table: Table, expected: Expected) -> Table:
    errors: list[tuple[str, str]] = []
    columns = []
    for index, values in enumerate(table.columns):
        name = table.names[index] if table.names else str(index)
        wanted = expected.columns[index].type if expected.columns else "any"
        if wanted == "any" and expected.numbers_only:
            wanted = "number"
        columns.append(_column(name, values, wanted, expected, errors))
    if errors:
        raise InputsRefused("wrong_type", f"{errors[0][0]}: {errors[0][1]}", errors)
    return Table(table.names, columns, table.rows)


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
            errors.append((f"inputs.{name}", f"row {row}: expected {noun}, got {_shown(cell)}"))
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
            text = f"row {row}: expected an ISO 8601 time, got {_shown(values[row])}"
            errors.append((f"inputs.{name}", text))
    return moments


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _is_whole(cell: Any) -> bool:
    return isinstance(cell, int) or (isinstance(cell, float) and cell.is_integer())


def _is_scalar(cell: Any) -> bool:
    return not isinstance(cell, list | dict)


# -- words --------------------------------------------------------------------------------------


def _difference(names: Sequence[str], record: dict[str, Any]) -> str:
    missing = [name for name in names if name not in record]
    more = [name for name in record if name not in names]
    parts = [f"has no {_listed(missing)}"] if missing else []
    return " and ".join(parts + ([f"has also {_listed(more)}"] if more else []))


def _listed(names: Iterable[str]) -> str:
    items = list(names)
    shown = ", ".join(items[:NAMES_SHOWN])
    more = len(items) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _shown(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…"


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _kinds(values: Iterable[Any]) -> str:
    return " and ".join(sorted({f"{_kind(value)}s" for value in values}))
