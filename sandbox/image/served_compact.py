"""The compact form of a model: numbers in a file that is read without running any code of it.

An `.npz` without pickles: `about` (JSON) and plain arrays. It answers only what it was compared
with the original for, bit by bit (`make_compact.py`); for everything else it says None, and the
original is asked. Needs numpy, and treelite's library for trees: ready in half a second.
"""

import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from served_answers import Result
from served_inputs import Column, Expected, InputsRefused, read_matrix, read_table
from served_trees import Trees

FORMAT = 1
# Kept equal to `inference/model_files.py` by a test.
OURS = ".mlops"
COMPACT = f"compact-{FORMAT}.npz"
OUTCOME = f"outcome-{FORMAT}.json"
MAX_BYTES = 256 * 1024 * 1024
FLOAT32_MAX = float(np.finfo(np.float32).max)
Transform = Callable[[Any], Any]


class CompactUnreadable(Exception):
    """The file is not what it should be; the original answers."""


@dataclass(frozen=True)
class About:
    """What the file says beside its arrays."""

    form: str
    link: str
    label: str
    steps: tuple[str, ...]
    casts: bool
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
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
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
            self._steps = [
                _step(kind, place, arrays) for place, kind in enumerate(self.about.steps)
            ]
            self._scores = _scores(self.about.form, arrays)
            self._chances = LINKS[self.about.link]
        except (KeyError, TypeError, ValueError) as error:
            raise CompactUnreadable(repr(error)) from error

    def prepare(self, inputs: Any) -> Any:
        """A matrix, or None for what only the original answers. Raises InputsRefused."""
        matrix = read_matrix(inputs, self.about.expected)
        if matrix is None:
            matrix = self._by_table(inputs)
        if matrix is None or len(matrix) > self.about.rows_most:
            return None
        return self._checked(matrix)

    def answer(self, matrix: Any, *, probabilities: bool) -> Result:
        began = time.perf_counter()
        labels, chances = self.labels_and_chances(matrix)
        milliseconds = (time.perf_counter() - began) * 1000
        shown = chances if probabilities else None
        return Result(labels, shown, self.about.classes, milliseconds)

    def labels_and_chances(self, matrix: Any) -> tuple[Any, Any]:
        for step in self._steps:
            matrix = step(matrix)
        if self.about.casts:
            matrix = matrix.astype(np.float32)
        scores = self._scores(matrix)
        chances = self._chances(scores)
        if self._classes is None:
            return chances, None
        if self.about.label == "score":
            places = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        elif chances.ndim == 2 and chances.shape[1] == len(self._classes):
            places = chances.argmax(axis=1)
        else:
            raise CompactUnreadable("It does not give a chance for each class.")
        return self._classes[places], chances if self.about.has_probabilities else None

    def _by_table(self, inputs: Any) -> Any:
        """As the original's own reading, with its refusals; where it may give other bits, None."""
        table = read_table(inputs, self.about.expected)
        if any(column.dtype == object or column.dtype == np.float32 for column in table.columns):
            return None
        if self.about.expected.columns is None:
            return np.column_stack(table.columns).astype(np.float64, copy=False)
        return np.array(table.columns, dtype=np.float64).T

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
    names = [name for name in About.__dataclass_fields__ if name not in ("expected", "steps")]
    return About(
        **{name: document[name] for name in names},
        expected=Expected(columns=columns, **expected),
        steps=tuple(document["steps"]),
    )


# -- what a form is made of -----------------------------------------------------------------------


def _step(kind: str, place: int, arrays: Mapping[str, Any]) -> Transform:
    """The arithmetic of scikit-learn's own scalers, in its order."""
    first, second = arrays.get(f"step{place}_a"), arrays.get(f"step{place}_b")
    if kind == "standard":
        return lambda rows: _over(_minus(rows, first), second)
    if kind == "minmax":
        return lambda rows: rows * first + second
    if kind == "maxabs":
        return lambda rows: rows / first
    raise CompactUnreadable(f"There is no step {kind}.")


def _minus(rows: Any, amount: Any) -> Any:
    return rows if amount is None else rows - amount


def _over(rows: Any, amount: Any) -> Any:
    return rows if amount is None else rows / amount


def _scores(form: str, arrays: Mapping[str, Any]) -> Transform:
    if form == "trees":
        trees = Trees(arrays["trees"].tobytes())

        def from_trees(rows: Any) -> Any:
            found = trees.answer(rows)
            return found.reshape(len(found), -1) if found.shape[-1] > 1 else found.reshape(-1)

        return from_trees
    if form == "linear":
        weights, offset = arrays["weights"], arrays["offset"]

        def from_line(rows: Any) -> Any:
            found = rows @ weights.T + offset
            return found.reshape(-1) if found.ndim > 1 and found.shape[1] == 1 else found

        return from_line
    raise CompactUnreadable(f"There is no form {form}.")


def _two(second: Any) -> Any:
    if second.ndim != 1:
        raise CompactUnreadable("It gives more than the chance of the second class.")
    return np.vstack((1.0 - second, second)).transpose()


def _pair(scores: Any) -> Any:
    return np.c_[-scores, scores]


def _softmax(scores: Any) -> Any:
    """As `sklearn.utils.extmath.softmax`."""
    scores = scores - np.max(scores, axis=1).reshape((-1, 1))
    np.exp(scores, out=scores)
    scores /= np.sum(scores, axis=1).reshape((-1, 1))
    return scores


def _logistic(scores: Any) -> Any:
    with np.errstate(over="ignore"):
        return _two(1 / (1 + np.exp(-scores)))


def _logistic_of_scipy(scores: Any) -> Any:
    # Here and not above: only where numpy's own exponential gives other bits than SciPy's.
    from scipy.special import expit  # noqa: PLC0415

    return _two(expit(scores))


def _same(scores: Any) -> Any:
    return scores


# By the name that a file gives: from scores to probabilities, or to the numbers of a regression.
LINKS: Mapping[str, Transform] = {
    "same": _same,
    "two": _two,
    "softmax": _softmax,
    "softmax_of_pair": lambda scores: _softmax(_pair(scores)),
    "logistic": _logistic,
    "logistic_of_scipy": _logistic_of_scipy,
}
