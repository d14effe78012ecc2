"""The compact form of a model: numbers in a file that is read without running any code of it.

An `.npz` without pickles: `about` (JSON) and plain arrays. It answers only what it was compared
with the original for, bit by bit (`make_compact.py`); for everything else it says None, and the
original is asked. Needs numpy, and treelite's library for trees: ready in half a second.
"""

import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_answers import Result
from served_columns import Columns, LeftToOriginal, StepUnknown, admitted, as_matrix, planned
from served_inputs import Column, Expected, InputsRefused, Table, read_matrix, read_table
from served_scores import LINKS, FormUnknown, places_of, scores_of

FORMAT = 2
# Kept equal to `inference/model_files.py` by a test.
OURS = ".mlops"
COMPACT = f"compact-{FORMAT}.npz"
OUTCOME = f"outcome-{FORMAT}.json"
MAX_BYTES = 256 * 1024 * 1024
FLOAT32_MAX = float(np.finfo(np.float32).max)


# How the last matrix lies in memory: as it came, row by row, or column by column.
ORDERS: Mapping[str, Callable[[Any], Any]] = {
    "K": np.asarray,
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
}
UNREADABLE = (
    ValueError,
    LookupError,
    ArithmeticError,
    OSError,
    EOFError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class CompactUnreadable(Exception):
    """The file is not what it should be; the original answers."""


@dataclass(frozen=True)
class About:
    """What the file says beside its arrays.

    `takes` and `gaps`: for each column its kind, and whether values may be missing, of a model
    that takes a table; `takes` is None for one that takes a matrix. `order`: how the last matrix
    lies in memory, which a product of matrices sums by. `blanks`: zeros are no values.
    """

    form: str
    link: str
    label: str
    steps: tuple[Mapping[str, Any], ...]
    casts: bool
    order: str
    blanks: bool
    takes: tuple[str, ...] | None
    gaps: tuple[bool, ...]
    name: str
    flavour: str
    classes: list[Any] | None
    expected: Expected
    has_probabilities: bool
    takes_missing: bool
    refuses_missing: str
    rows_most: int
    description: Mapping[str, Any]


def pack(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """The file's bytes."""
    text = np.frombuffer(json.dumps({**about, "format": FORMAT}).encode(), dtype=np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, about=text, **arrays)
    return file.getvalue()


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """`about` and the arrays. Raises CompactUnreadable."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise CompactUnreadable("It is too large.")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        about = json.loads(found.pop("about").tobytes())
    except UNREADABLE as error:
        raise CompactUnreadable(str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CompactUnreadable("It was made by another release.")
    return about, found


class CompactModel:
    """Reads inputs as the original does, and answers the same bits."""

    def __init__(self, content: bytes) -> None:
        """Raises CompactUnreadable, TreesUnreadable."""
        about, arrays = unpack(content)
        try:
            self.about = _about(about)
            self.proof = about.get("proof")
            self._classes = np.asarray(self.about.classes) if self.about.classes else None
            self._through = planned(self.about.steps, arrays)
            self._scores = scores_of(self.about.form, arrays)
            self._chances = LINKS[self.about.link]
            self._ordered = ORDERS[self.about.order]
        except (*UNREADABLE, TypeError, AttributeError, StepUnknown, FormUnknown) as error:
            raise CompactUnreadable(repr(error)) from error

    def prepare(self, inputs: Any) -> Any:
        """A matrix or Columns; None for what only the original answers. Raises InputsRefused."""
        if self.about.takes is not None:
            found = self.admitted(read_table(inputs, self.about.expected))
        else:
            found = read_matrix(inputs, self.about.expected)
            if found is None:
                found = self._by_table(inputs)
            found = None if found is None else self._checked(found)
        return None if found is None or len(found) > self.about.rows_most else found

    def admitted(self, table: Table) -> Columns | None:
        return admitted(table, self.about.takes or (), self.about.gaps)

    def answer(self, prepared: Any, *, probabilities: bool) -> Result:
        """Raises LeftToOriginal."""
        began = time.perf_counter()
        labels, chances = self.labels_and_chances(prepared)
        milliseconds = (time.perf_counter() - began) * 1000
        shown = chances if probabilities else None
        return Result(labels, shown, self.about.classes, milliseconds)

    def labels_and_chances(self, prepared: Any) -> tuple[Any, Any]:
        """Raises LeftToOriginal, FormUnknown."""
        scores = self._scores(self._matrix(prepared))
        chances = self._chances(scores)
        if self._classes is None:
            return chances, None
        places = places_of(self.about.label, scores, chances, len(self._classes))
        return self._classes[places], chances if self.about.has_probabilities else None

    def _matrix(self, prepared: Any) -> Any:
        """Raises LeftToOriginal for what its steps make too large: the original refuses that."""
        matrix = as_matrix(self._through(prepared))
        if self.about.steps and _too_large(matrix, self.about.casts):
            raise LeftToOriginal
        if self.about.blanks:
            matrix = np.where(matrix == 0, np.nan, matrix)
        if self.about.casts:
            return matrix.astype(np.float32)
        return self._ordered(matrix)

    def _by_table(self, inputs: Any) -> Any:
        """As the original's own reading, with its refusals; where it may give other bits, None."""
        table = read_table(inputs, self.about.expected)
        if any(column.dtype == object for column in table.columns):
            return None
        if self.about.expected.columns is None:
            return np.column_stack(table.columns).astype(np.float64, copy=False)
        single = all(column.dtype == np.float32 for column in table.columns)
        return np.array(table.columns, dtype=np.float32 if single else np.float64).T

    def _checked(self, matrix: Any) -> Any:
        """None for what was not compared."""
        largest = np.abs(matrix).max()
        if largest <= FLOAT32_MAX:
            return matrix
        if not np.isnan(largest) or np.nanmax(np.abs(matrix), initial=0) > FLOAT32_MAX:
            return None
        if self.about.takes_missing:
            return matrix
        if self.about.refuses_missing:
            detail = self.about.refuses_missing
            sentence = f"The model refused the inputs: {detail}"
            raise InputsRefused("model_refused_inputs", sentence, [("inputs", detail)])
        return None


def _too_large(matrix: Any, casts: bool) -> bool:
    """Infinite, in the precision that the model computes in; a missing value is not."""
    single = casts or matrix.dtype == np.float32
    largest = np.fmax.reduce(np.abs(matrix), axis=None, initial=0.0)
    return bool(largest > FLOAT32_MAX) if single else bool(np.isinf(largest))


def expected_document(expected: Expected) -> dict[str, Any]:
    columns = expected.columns
    return {
        **vars(expected),
        "columns": None if columns is None else [vars(column) for column in columns],
    }


def _about(document: Mapping[str, Any]) -> About:
    expected = dict(document["expected"])
    columns = expected.pop("columns")
    if columns is not None:
        columns = tuple(Column(**column) for column in columns)
    apart = ("expected", "steps", "takes", "gaps")
    names = [name for name in About.__dataclass_fields__ if name not in apart]
    takes = document["takes"]
    return About(
        **{name: document[name] for name in names},
        expected=Expected(columns=columns, **expected),
        steps=tuple(document["steps"]),
        takes=None if takes is None else tuple(takes),
        gaps=tuple(document["gaps"]),
    )
