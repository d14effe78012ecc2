"""Reads what a batch's container said; it is a stranger's word, so that every part is checked.

The other half is `sandbox/image/served_record.py`; `docs/MODEL_SERVER.md` has the lines. Nothing is
held beyond one line, and lines have an end.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

# What one line may have, in base64 and with its mark.
LINE_BYTES = 4 * 1024 * 1024
NAMES_MOST = 20_000
NAME_CHARACTERS = 1000
PHASE_CHARACTERS = 60
SENTENCE_CHARACTERS = 2000
ERRORS_MOST = 20
FIELD_CHARACTERS = 200
ROWS_MOST = 10**12


class RecordBroken(Exception):
    """What was said is not what was agreed on; the message says where."""


@dataclass(frozen=True)
class Head:
    """What comes with the rows: columns of inputs, and a chance for each class; None: not."""

    inputs: tuple[str, ...] | None
    classes: tuple[Any, ...] | None


@dataclass(frozen=True)
class Rows:
    """Some rows that follow those before; `inputs` are columns."""

    predictions: Sequence[Any]
    probabilities: Sequence[Sequence[Any]] | None
    inputs: Sequence[Sequence[Any]] | None


@dataclass(frozen=True)
class Done:
    """All rows were predicted."""

    rows: int


@dataclass(frozen=True)
class Refusal:
    """The process gave up, and says why; `status` as a request would have got it."""

    status: int
    code: str
    detail: str
    errors: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Progress:
    """What the container last said that it is doing."""

    phase: str
    done: int
    total: int | None
    share: float


Part = Head | Rows | Done | Refusal


def parts_of(record: Iterable[bytes]) -> Iterator[Part]:
    """A head, rows from the first on without a gap, and the end or a refusal.

    Raises RecordBroken, at the latest when the record ends without an end.
    """
    reader = _Reader()
    for line in _lines(record):
        part = reader.part_of(line)
        if part is not None:
            yield part
        if isinstance(part, Done | Refusal):
            return
    raise RecordBroken("It ended without an end.")


def progress_in(lines: bytes) -> Progress | None:
    """The last one among some lines, the first of which may be cut off."""
    for line in reversed(lines.split(b"\n")):
        if line.startswith(b"p "):
            try:
                return _progress(_document(line[2:]))
            except RecordBroken:
                continue
    return None


def _lines(record: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for data in record:
        held += data
        if b"\n" in data:
            *whole, rest = bytes(held).split(b"\n")
            yield from whole
            held = bytearray(rest)
        if len(held) > LINE_BYTES:
            raise RecordBroken("A line of it has no end.")


class _Reader:
    def __init__(self) -> None:
        self._head: Head | None = None
        self._rows = 0

    def part_of(self, line: bytes) -> Part | None:
        """None for what tells nothing that is asked for here."""
        kind, content = line[:2], line[2:]
        if kind == b"h " and self._head is None:
            self._head = _head(_decoded(content))
            return self._head
        if kind == b"d ":
            return self._some(_decoded(content))
        if kind == b"e ":
            return self._done(_document(content))
        return _refusal(_decoded(content)) if kind == b"r " else None

    def _some(self, told: dict[str, Any]) -> Rows:
        if self._head is None:
            raise RecordBroken("Rows come before their head.")
        if told.get("at") != self._rows:
            raise RecordBroken(f"Row {self._rows} does not follow.")
        predictions = told.get("predictions")
        if not isinstance(predictions, list) or not predictions:
            raise RecordBroken("There are no predictions.")
        count = len(predictions)
        rows = Rows(
            predictions,
            _table(told.get("probabilities"), self._head.classes, count, by_row=True),
            _table(told.get("inputs"), self._head.inputs, count, by_row=False),
        )
        self._rows += count
        return rows

    def _done(self, told: dict[str, Any]) -> Done:
        if self._head is None or told.get("rows") != self._rows:
            raise RecordBroken(f"There are {self._rows} rows, and it says {told.get('rows')!r}.")
        return Done(self._rows)


def _table(given: Any, names: Sequence[Any] | None, rows: int, *, by_row: bool) -> Any:
    """Raises RecordBroken unless there is a value for each name and row, or neither."""
    if names is None:
        return None
    outer, inner = (rows, len(names)) if by_row else (len(names), rows)
    if not isinstance(given, list) or len(given) != outer:
        raise RecordBroken("A column is missing.")
    if not all(isinstance(part, list) and len(part) == inner for part in given):
        raise RecordBroken("Columns have other rows than the predictions.")
    return given


def _head(told: dict[str, Any]) -> Head:
    inputs, classes = told.get("inputs"), told.get("classes")
    for names in (inputs, classes):
        if names is None:
            continue
        if not isinstance(names, list) or len(names) > NAMES_MOST:
            raise RecordBroken("Its columns are no list of names.")
        if any(isinstance(name, list | dict) or len(str(name)) > NAME_CHARACTERS for name in names):
            raise RecordBroken("A column has no name.")
    return Head(
        None if inputs is None else tuple(map(str, inputs)),
        None if classes is None else tuple(classes),
    )


def _refusal(told: dict[str, Any]) -> Refusal:
    given = told.get("errors")
    errors = given if isinstance(given, list) else []
    return Refusal(
        status=400 if told.get("status") in (400, 413) else 500,
        code=_text(told.get("code"), FIELD_CHARACTERS),
        detail=_text(told.get("detail"), SENTENCE_CHARACTERS),
        errors=tuple(
            {
                "field": _text(error.get("field"), FIELD_CHARACTERS),
                "detail": _text(error.get("detail"), FIELD_CHARACTERS * 2),
            }
            for error in errors[:ERRORS_MOST]
            if isinstance(error, dict)
        ),
    )


def _progress(told: dict[str, Any]) -> Progress:
    total, share = told.get("of"), told.get("share")
    return Progress(
        phase=_text(told.get("phase"), PHASE_CHARACTERS),
        done=_count(told.get("done")),
        total=None if total is None else _count(total),
        share=min(1.0, max(0.0, float(share))) if isinstance(share, int | float) else 0.0,
    )


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < ROWS_MOST else 0


def _text(value: Any, most: int) -> str:
    # PostgreSQL keeps no NUL in a text.
    return value[:most].replace("\0", "") if isinstance(value, str) else ""


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        return _document(base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise RecordBroken("A line is cut off.") from error


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RecordBroken("A line is not JSON.") from error
    if not isinstance(document, dict):
        raise RecordBroken("A line is no object.")
    return document
