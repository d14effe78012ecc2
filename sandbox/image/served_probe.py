"""Rows to try a model with, and what was found: whether rows may be answered together.

Nothing here is trusted beyond this container; a model that cheats its trial cheats its own users.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from served_answers import Result, encoded
from served_desk import Batching
from served_inputs import Expected

if TYPE_CHECKING:
    from served_model import Prepared, ServedModel

EXAMPLE_BYTES = 1024 * 1024
EXAMPLE_ROWS = 3
TRIAL_ROWS = 256
TRIAL_SECONDS = 2.0
# What is sent alone in the trial, in rows; the sum is what the first joined call has.
TRIAL_PARTS = (1, 1, 1, 2, 3, 1, 5, 8, 1, 3, 13, 1, 2, 21, 1, 1, 34, 3, 1, 50, 4, 100)
# Of a model that is known to look at each row alone, so many more are tried, and may share a call.
MORE_PARTS = (256, 1024, 512, 2048, 256)
MORE_ROWS = sum(MORE_PARTS)
MONTHS = [f"2024-{month:02d}-15T12:00:00" for month in range(1, 13)]


class Rows:
    """Makes inputs that the model takes, as far as anybody wrote down what that is."""

    def __init__(
        self,
        expected: Expected,
        *,
        example: Any = None,
        known: Mapping[str, list[Any]] | None = None,
    ) -> None:
        self._expected = expected
        self._known = {**_columns_in(example), **(known or {})}
        self._rng = np.random.default_rng(20)

    @property
    def possible(self) -> bool:
        return self._expected.columns is not None or self._expected.n_features is not None

    def inputs(self, rows: int) -> Any:
        """Columns, or rows where nobody named any."""
        if self._expected.columns is None:
            width = self._expected.n_features or 1
            scale = 10 ** self._rng.uniform(-1, 2, size=width)
            return (self._rng.normal(size=(rows, width)) * scale).round(6).tolist()
        return {
            column.name: self._column(column.name, column.type, rows)
            for column in self._expected.columns
        }

    def _column(self, name: str, kind: str, rows: int) -> list[Any]:
        known = self._known.get(name)
        if known:
            return [known[place] for place in self._rng.integers(len(known), size=rows)]
        if kind == "boolean":
            return [bool(value) for value in self._rng.integers(2, size=rows)]
        if kind in ("long", "integer"):
            return [int(value) for value in self._rng.integers(0, 100, size=rows)]
        if kind == "datetime":
            return [MONTHS[place] for place in self._rng.integers(len(MONTHS), size=rows)]
        if kind == "string":
            return [f"text {place}" for place in self._rng.integers(10, size=rows)]
        values = self._rng.normal(size=rows) * 10 ** self._rng.uniform(-1, 2)
        return [round(float(value), 6) for value in values]


def example_in(folder: Path, description: Mapping[str, Any]) -> Any:
    """The input example that was logged with the model, as it lies there; None without one."""
    name = (description.get("saved_input_example_info") or {}).get("artifact_path")
    if not name:
        return None
    path = folder / str(name)
    inside = path.resolve().is_relative_to(folder.resolve())
    if not inside or not path.is_file() or path.stat().st_size > EXAMPLE_BYTES:
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def categories_in(parts: Iterator[Any]) -> dict[str, list[Any]]:
    """The values that encoders inside the model know, by the name of their column."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        names = getattr(part, "feature_names_in_", None)
        categories = getattr(part, "categories_", None)
        if names is None or categories is None or len(names) != len(categories):
            continue
        for name, values in zip(names, categories, strict=True):
            plain = [value for value in np.asarray(values).tolist() if value == value]
            found[str(name)] = plain
    return found


def batching_of(model: "ServedModel", rows: Rows, *, most_rows: int = TRIAL_ROWS) -> Batching:
    """Tries the model: the same rows alone, together, and in another order. Raises as it does.

    `most_rows`: so many are tried in one call, if that is more.
    """
    if not rows.possible:
        return Batching(on=False, reason="Nobody wrote down what the model takes.", most_rows=0)
    parts = [
        model.prepare(rows.inputs(size), probabilities=model.has_probabilities)
        for size in TRIAL_PARTS
    ]
    if len({part.key for part in parts}) > 1 or parts[0].key is None:
        return Batching(on=False, reason="Its columns differ between requests.", most_rows=0)
    deadline = time.monotonic() + TRIAL_SECONDS
    alone = [_said(model.answer(part)) for part in parts[:4]]
    again = [_said(model.answer(part)) for part in parts[:4]]
    if alone != again:
        return Batching(on=False, reason="It answers the same rows differently.", most_rows=0)
    alone += [_said(model.answer(part)) for part in parts[4:]]
    for order in _orders(len(parts)):
        answers = model.answer_together([parts[place] for place in order])
        if answers is None:
            return Batching(on=False, reason="It does not give a row for each row.", most_rows=0)
        if [_said(answer) for answer in answers] != [alone[place] for place in order]:
            reason = "Its answer to a row depends on the rows beside it."
            return Batching(on=False, reason=reason, most_rows=0)
        if time.monotonic() > deadline:
            break
    agreed = "Rows answered alone and together agree."
    if most_rows > TRIAL_ROWS and time.monotonic() < deadline and _more_agree(model, rows):
        return Batching(on=True, reason=agreed, most_rows=most_rows)
    return Batching(on=True, reason=agreed, most_rows=TRIAL_ROWS)


def _more_agree(model: "ServedModel", rows: Rows) -> bool:
    parts = [
        model.prepare(rows.inputs(size), probabilities=model.has_probabilities)
        for size in MORE_PARTS
    ]
    if len({part.key for part in parts}) > 1 or parts[0].key is None:
        return False
    answers = model.answer_together(parts)
    if answers is None:
        return False
    return [_said(answer) for answer in answers] == [_said(model.answer(part)) for part in parts]


def _orders(count: int) -> Iterator[Sequence[int]]:
    """Which parts go together: all, all backwards, then every pair and every run of small ones."""
    yield range(count)
    yield range(count - 1, -1, -1)
    for first in range(count - 1):
        yield (first, first + 1)
    for width in range(3, count):
        yield range(width)


def _said(result: Result) -> bytes:
    return encoded(Result(result.labels, result.chances, None, 0.0))


def _columns_in(example: Any) -> dict[str, list[Any]]:
    """The columns of an example in MLflow's forms: split, or columns, or records."""
    if isinstance(example, dict) and {"columns", "data"} <= example.keys():
        names, data = example["columns"], example["data"]
        if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
            return {}
        return {
            str(name): [row[place] for row in data if len(row) > place]
            for place, name in enumerate(names)
        }
    if isinstance(example, list) and all(isinstance(row, dict) for row in example):
        return {
            str(name): [row.get(name) for row in example] for row in example[:1] for name in row
        }
    return {}


def small_example(rows: Rows) -> Any:
    """What a user may send as it is; None where nobody knows what the model takes."""
    return orjson.loads(orjson.dumps(rows.inputs(EXAMPLE_ROWS))) if rows.possible else None


def logged_example(example: Any) -> Any:
    """The first rows of the example that was logged, as a user may send them; None without any."""
    columns = {name: values[:EXAMPLE_ROWS] for name, values in _columns_in(example).items()}
    if columns:
        return columns
    rows = example.get("data", example.get("inputs")) if isinstance(example, dict) else example
    if isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows):
        return rows[:EXAMPLE_ROWS]
    return None


def warm_up(model: "ServedModel", rows: Rows) -> "Prepared | None":
    """One call, so that the first user does not pay for what is made at first use."""
    if not rows.possible:
        return None
    prepared = model.prepare(rows.inputs(1), probabilities=model.has_probabilities)
    model.answer(prepared)
    return prepared
