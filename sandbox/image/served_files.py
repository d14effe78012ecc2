"""Reads a file of inputs in chunks, as the columns that a request would have.

Runs inside the container of a batch: the file is a stranger's. Never more than a chunk of it is
held, and it may be read from its begin again.
"""

import csv
import importlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from served_cells import Columns
from served_inputs import Expected, InputsRefused
from served_shapes import listed

CHUNK_ROWS = 10_000
# Of wide files a chunk has fewer rows; and of long texts, too.
CHUNK_CELLS = 1_000_000
CHUNK_BYTES = 16 * 1024 * 1024
GROUP_ROWS = 1000
FIELD_CHARACTERS = 1024 * 1024
# What pandas writes its index as.
INDEX_COLUMN = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Chunk:
    """Some rows that follow each other; `first` is the number of the first one, from 0.

    `lines` are where each row is in the file, where that is known; `share` of the file has been
    read.
    """

    first: int
    rows: int
    inputs: dict[str, list[Any]]
    share: float
    lines: Sequence[int] = ()


class InputFile(Protocol):
    """`names` are its columns in their order, once the first chunk was read."""

    names: list[str]

    def chunks(self) -> Iterator[Chunk]: ...


def open_file(path: Path, expected: Expected) -> InputFile:
    """Raises InputsRefused, here and while it is read."""
    if path.suffix == ".parquet":
        return ParquetFile(path)
    return CsvFile(path, expected)


class CsvFile:
    """CSV in UTF-8 with commas, whose first line names the columns."""

    def __init__(self, path: Path, expected: Expected) -> None:
        csv.field_size_limit(FIELD_CHARACTERS)
        self._path = path
        self._expected = expected
        self._size = max(1, path.stat().st_size)
        self._columns: Columns | None = None
        self.names: list[str] = []

    def chunks(self) -> Iterator[Chunk]:
        with (
            self._path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            reader = csv.reader(text, strict=True)
            self._begin(next(iter(_taken(reader, 1)), []))
            held: list[list[str]] = []
            places: list[int] = []
            first, began = 0, raw.tell()
            most = min(CHUNK_ROWS, max(1, CHUNK_CELLS // len(self.names)))
            while True:
                before = reader.line_num
                rows = _taken(reader, min(GROUP_ROWS, most - len(held)))
                where = _places(rows, before, reader.line_num)
                self._check_widths(rows, where)
                held += filter(None, rows)
                if where:
                    places += [place for place, row in zip(where, rows, strict=True) if row]
                full = len(held) >= most or raw.tell() - began > CHUNK_BYTES
                if held and (full or not rows):
                    yield self._chunk(first, held, places, raw.tell())
                    first, began = first + len(held), raw.tell()
                    held, places = [], []
                if not rows:
                    return

    def _begin(self, names: list[str]) -> None:
        if not names:
            raise _unreadable("csv", "The file is empty; its first line must name the columns.")
        _refuse_twice(names)
        self.names = names
        # Kept from the first reading: it knows what every column is.
        self._columns = self._columns or Columns(names, self._expected)

    def _check_widths(self, rows: list[list[str]], places: Sequence[int]) -> None:
        """A line without anything is no row."""
        width = len(self.names)
        if set(map(len, rows)) <= {0, width}:
            return
        wrong = next(at for at, row in enumerate(rows) if len(row) not in (0, width))
        line = f"Line {places[wrong]}" if wrong < len(places) else "A row"
        told = f"{line} has {len(rows[wrong])} values; the first line names {width}."
        raise _unreadable("csv", told)

    def _chunk(self, first: int, rows: list[list[str]], places: list[int], read: int) -> Chunk:
        assert self._columns is not None  # noqa: S101 - made with the header
        inputs = {
            name: self._columns.read(name, texts)
            for name, texts in zip(self.names, zip(*rows, strict=True), strict=True)
        }
        # Where some are of several lines, nobody counts them.
        known = places if len(places) == len(rows) else ()
        return Chunk(first, len(rows), inputs, min(1.0, read / self._size), known)


def _taken(reader: Any, most: int) -> list[list[str]]:
    """So many rows, or fewer at the end. Raises InputsRefused."""
    try:
        return list(islice(reader, most))
    except (csv.Error, UnicodeDecodeError) as error:
        told = f"After line {reader.line_num} the file is not CSV in UTF-8: {error}."
        raise _unreadable("csv", told) from error


def _places(rows: Sequence[Any], before: int, after: int) -> Sequence[int]:
    """In which line each row is; nothing where some are of several lines."""
    return range(before + 1, after + 1) if after - before == len(rows) else ()


class ParquetFile:
    """Parquet, where the model's environment has pyarrow."""

    def __init__(self, path: Path) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            told = "The environment of this model has no pyarrow, which reads Parquet."
            raise InputsRefused("parquet_not_possible", told, [("file", told)]) from None
        try:
            self._file = parquet.ParquetFile(path)
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise _no_parquet(error) from error
        names = list(self._file.schema_arrow.names)
        _refuse_twice(names)
        self.names = [name for name in names if not INDEX_COLUMN.fullmatch(name)]

    def chunks(self) -> Iterator[Chunk]:
        total, first = self._file.metadata.num_rows, 0
        most = min(CHUNK_ROWS, max(1, CHUNK_CELLS // max(1, len(self.names))))
        batches = self._file.iter_batches(batch_size=most, columns=self.names)
        while True:
            try:
                batch = next(batches, None)
            except (self._arrow.ArrowException, OSError, ValueError) as error:
                raise _no_parquet(error) from error
            if batch is None:
                return
            if not batch.num_rows:
                continue
            inputs = {
                name: self._cells(batch.column(place)) for place, name in enumerate(self.names)
            }
            share = (first + batch.num_rows) / max(1, total)
            yield Chunk(first, batch.num_rows, inputs, min(1.0, share))
            first += batch.num_rows

    def _cells(self, column: Any) -> list[Any]:
        """As JSON would have them: a missing number is null, a time is text."""
        types, kind, cells = self._arrow.types, column.type, column.to_pylist()
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_floating(kind):
            return [None if cell is None or cell != cell else cell for cell in cells]
        if types.is_temporal(kind) and not types.is_duration(kind):
            return [None if cell is None else cell.isoformat() for cell in cells]
        if types.is_decimal(kind):
            return [None if cell is None else float(cell) for cell in cells]
        if types.is_binary(kind) or types.is_large_binary(kind):
            return [None if cell is None else cell.decode(errors="replace") for cell in cells]
        return list(cells)


def _no_parquet(error: Exception) -> InputsRefused:
    told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return _unreadable("parquet", f"The file is not Parquet that can be read: {told}")


def _refuse_twice(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        told = f"Each column must have a name of its own; these come twice: {listed(twice)}."
        raise InputsRefused("inputs_ragged", told, [("file", told)])


def _unreadable(kind: str, told: str) -> InputsRefused:
    return InputsRefused(f"invalid_{kind}", told, [("file", told)])
