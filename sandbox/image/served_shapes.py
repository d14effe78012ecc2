"""The shapes that the `inputs` of a prediction may come in, and the words for what is none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

ERRORS_SHOWN = 20
NAMES_SHOWN = 50
TEXT_SHOWN = 60
SHAPES = 'columns {"age": [25, 35]}, records [{"age": 25}, {"age": 35}], or rows [[25], [35]]'
SPLIT = frozenset({"columns", "data"})


class InputsRefused(Exception):
    """The inputs do not fit the model; `detail` is one sentence, `errors` name single places."""

    def __init__(self, code: str, detail: str, errors: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = [{"field": place, "detail": text} for place, text in errors][:ERRORS_SHOWN]

    def beside(self, other: "InputsRefused") -> "InputsRefused":
        """Both in one; the first gives the code."""
        between = " " if self.detail.endswith(".") else "; "
        both = InputsRefused(self.code, f"{self.detail}{between}{other.detail}")
        both.errors = [*self.errors, *other.errors][:ERRORS_SHOWN]
        return both


@dataclass(frozen=True)
class Table:
    """Named, or positional, columns of equal length, before and after typing."""

    names: tuple[str, ...] | None
    columns: list[Any]
    rows: int = field(default=0)


def shaped(inputs: Any) -> Table:
    """The inputs as columns of equal length. Raises InputsRefused."""
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
            f"it has {listed(names)}."
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
            f"Each column of `inputs` must be a list; these are not: {listed(single)}. "
            "One row is sent as a list of one object.",
            [(f"inputs.{name}", f"expected a list, got {_kind(inputs[name])}") for name in single],
        )
    lengths = {name: len(values) for name, values in inputs.items()}
    if len(set(lengths.values())) > 1:
        raise InputsRefused(
            "inputs_ragged",
            "The columns of `inputs` differ in length: "
            + listed([f"{name} has {length}" for name, length in lengths.items()])
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
            f"The records of `inputs` differ in their fields: record 0 has {listed(names)}; "
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


def _difference(names: Sequence[str], record: dict[str, Any]) -> str:
    missing = [name for name in names if name not in record]
    more = [name for name in record if name not in names]
    parts = [f"has no {listed(missing)}"] if missing else []
    return " and ".join(parts + ([f"has also {listed(more)}"] if more else []))


def listed(names: Iterable[str]) -> str:
    items = list(names)
    shown = ", ".join(items[:NAMES_SHOWN])
    more = len(items) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def shown(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…"


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _kinds(values: Iterable[Any]) -> str:
    return " and ".join(sorted({f"{_kind(value)}s" for value in values}))


def more(count: int) -> str:
    """Where the counting ended early the number is not known."""
    return f"{count} more" if count + 1 < ERRORS_SHOWN else "more"
