"""Writes predictions as CSV or Parquet, row by row, from parts that were checked.

The file is ours from its first byte to its last: a model chooses values in it, and nothing else.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from inference.batch.record import Done, Head, Part, RecordBroken, Refusal, Rows
from inference.batch.states import Format

PREDICTION, PROBABILITY = "prediction", "probability_"
# What a spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection).
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
HARMLESS = "'"
GROUP_ROWS = 20_000
LONG_MOST = 2**63
Parts = Callable[[], Iterable[Part]]


class TableTooLarge(Exception):
    """The file would be larger than it may be."""


@dataclass(frozen=True)
class Shape:
    """How the file is wanted. `escape_formulas` is for CSV, which spreadsheets open."""

    form: str
    escape_formulas: bool
    most_bytes: int


class Table(Protocol):
    """A file that is open. `add` raises TableTooLarge."""

    def add(self, columns: list[list[Any]]) -> None: ...

    def close(self) -> None: ...


def write_table(path: Path, parts: Parts, shape: Shape) -> Done | Refusal:
    """How the record ends; after a refusal there is no file. `parts` may be asked for them twice.

    Raises RecordBroken, TableTooLarge.
    """
    kinds: list[str] = []
    if shape.form == Format.PARQUET:
        # A column has one type, and only all of its rows tell which one.
        found = _kinds_of(parts(), kinds)
        if isinstance(found, Refusal):
            return found
    came = _written(path, parts(), kinds, shape)
    if isinstance(came, Refusal):
        path.unlink(missing_ok=True)
    return came


def _written(path: Path, parts: Iterable[Part], kinds: list[str], shape: Shape) -> Done | Refusal:
    table: Table | None = None
    try:
        for part in parts:
            if isinstance(part, Head):
                table = _opened(path, names_of(part), kinds, shape)
            elif isinstance(part, Rows):
                assert table is not None  # noqa: S101 - the record has its head first
                table.add(columns_of(part))
            else:
                return part
    finally:
        if table is not None:
            table.close()
    raise RecordBroken("It ended without an end.")


def names_of(head: Head) -> list[str]:
    """Inputs under their own names; ours give way where they are taken."""
    names = list(head.inputs or ())
    for own in (PREDICTION, *(f"{PROBABILITY}{_word(name)}" for name in head.classes or ())):
        while own in names:
            own += "_"
        names.append(own)
    return names


def columns_of(rows: Rows) -> list[list[Any]]:
    chances = rows.probabilities or []
    return [
        *(list(cells) for cells in rows.inputs or ()),
        list(rows.predictions),
        *(list(cells) for cells in zip(*chances, strict=True)),
    ]


def _word(value: Any) -> str:
    """As JSON says it, text as it is."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _opened(path: Path, names: list[str], kinds: list[str], shape: Shape) -> Table:
    if shape.form == Format.PARQUET:
        return _Parquet(path, names, kinds, shape)
    return _Csv(path, names, shape)


# -- CSV ------------------------------------------------------------------------------------------
class _Csv:
    def __init__(self, path: Path, names: list[str], shape: Shape) -> None:
        self._shape = shape
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow([self._cell(name) for name in names])

    def add(self, columns: list[list[Any]]) -> None:
        texts = ([self._cell(cell) for cell in column] for column in columns)
        self._writer.writerows(zip(*texts, strict=True))
        if self._file.tell() > self._shape.most_bytes:
            raise TableTooLarge

    def close(self) -> None:
        self._file.close()

    def _cell(self, value: Any) -> Any:
        """Numbers in all their digits; a missing value is empty."""
        if type(value) in (int, float) or value is None:
            return value
        if isinstance(value, str):
            risky = self._shape.escape_formulas and value.startswith(FORMULA_BEGINS)
            return HARMLESS + value if risky else value
        return _told(value)


def _told(value: Any) -> str:
    """Raises RecordBroken for what is nested too deeply to be said."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise RecordBroken("An answer is nested too deeply.") from error


# -- Parquet --------------------------------------------------------------------------------------
NOTHING, BOOLEAN, WHOLE, NUMBER, TEXT = "nothing", "boolean", "whole", "number", "text"


def _kinds_of(parts: Iterable[Part], kinds: list[str]) -> Part:
    """Fills `kinds` with one for each column; the part that ends the record."""
    for part in parts:
        if isinstance(part, Head):
            kinds.extend([NOTHING] * len(names_of(part)))
        elif isinstance(part, Rows):
            for place, column in enumerate(columns_of(part)):
                kinds[place] = _joined(kinds[place], column)
        else:
            return part
    raise RecordBroken("It ended without an end.")


def _joined(kind: str, cells: list[Any]) -> str:
    found = {kind, *map(_kind, set(map(type, cells)))} - {NOTHING}
    if WHOLE in found and any(type(cell) is int and cell >= LONG_MOST for cell in cells):
        found.add(NUMBER)
    if found <= {WHOLE, NUMBER} and NUMBER in found:
        return NUMBER
    return found.pop() if len(found) == 1 else (TEXT if found else NOTHING)


def _kind(kind: type) -> str:
    known = {type(None): NOTHING, bool: BOOLEAN, int: WHOLE, float: NUMBER}
    return known.get(kind, TEXT)


class _Parquet:
    def __init__(self, path: Path, names: list[str], kinds: list[str], shape: Shape) -> None:
        # Half a second, for a worker that writes such a file only.
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415

        types = {
            NOTHING: pyarrow.string(),
            BOOLEAN: pyarrow.bool_(),
            WHOLE: pyarrow.int64(),
            NUMBER: pyarrow.float64(),
            TEXT: pyarrow.string(),
        }
        self._arrow = pyarrow
        self._kinds = kinds
        self._shape = shape
        self._schema = pyarrow.schema(
            [(name, types[kind]) for name, kind in zip(names, kinds, strict=True)]
        )
        self._file = path.open("wb")
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema)
        self._held: list[list[Any]] = [[] for _ in names]

    def add(self, columns: list[list[Any]]) -> None:
        for held, column in zip(self._held, columns, strict=True):
            held.extend(column)
        if len(self._held[0]) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()
            self._file.close()

    def _flush(self) -> None:
        if not self._held[0]:
            return
        arrays = [
            self._arrow.array(list(_as_kind(kind, cells)), type=field.type)
            for kind, cells, field in zip(self._kinds, self._held, self._schema, strict=True)
        ]
        self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        self._held = [[] for _ in self._held]
        if self._file.tell() > self._shape.most_bytes:
            raise TableTooLarge


def _as_kind(kind: str, cells: list[Any]) -> Iterator[Any]:
    if kind == NUMBER:
        return (None if cell is None else float(cell) for cell in cells)
    if kind == TEXT:
        return (cell if cell is None or isinstance(cell, str) else _told(cell) for cell in cells)
    return iter(cells)
