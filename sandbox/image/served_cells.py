"""Turns the cells of a CSV file into the values that JSON would have for them.

Runs inside the container of a batch. What a cell means is said by the model's columns; where they
say nothing, a column is numbers if all of it is numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from served_inputs import FLOATING, WHOLE, Expected

Cells = list[Any]
MISSING = frozenset({"", "nan"})
BOOLEANS = {"true": True, "false": False}
# What JSON's parser takes for a whole number; a longer one is read as a fraction.
SMALLEST, BEYOND = -(2**63), 2**64
# Shorter ones fit whatever their digits are.
SURE_DIGITS = 18


class Columns:
    """Reads each column of one file by what the model expects of it.

    Of a column of which nobody wrote down what it is, `read` remembers what all of it could be read
    as: read from its begin again, the whole file is read alike.
    """

    def __init__(self, names: Sequence[str], expected: Expected) -> None:
        self._reads = {name: _reads(name, expected) for name in names}
        self._open: dict[str, int] = {}

    def read(self, name: str, texts: Sequence[str]) -> Cells:
        reads = self._reads[name]
        if reads is not None:
            return reads(texts)
        for place in range(self._open.get(name, 0), len(OPEN)):
            self._open[name] = place
            try:
                return OPEN[place](texts)
            except ValueError:
                continue
        return _texts(texts)


def _reads(name: str, expected: Expected) -> Callable[[Sequence[str]], Cells] | None:
    """None where only the whole column tells."""
    wanted = "any"
    for column in expected.columns or ():
        known = (name, name.replace(" ", "_")) if expected.spaces_become_underscores else (name,)
        if column.name in known:
            wanted = column.type
    if wanted in FLOATING | WHOLE or (wanted == "any" and expected.numbers_only):
        return _numbers
    if wanted == "any":
        return None
    return _booleans if wanted == "boolean" else _texts


def _numbers(texts: Sequence[str]) -> Cells:
    """What is no number stays text, for the model's own check to name it."""
    for read in (_whole, _fractions):
        try:
            return read(texts)
        except ValueError:
            continue
    return [_number(text) for text in texts]


def _number(text: str) -> Any:
    word = text.strip().lower()
    if word in MISSING:
        return None
    if word in BOOLEANS:
        return BOOLEANS[word]
    try:
        return _numbers_of([text])[0]
    except ValueError:
        return text


def _numbers_of(texts: Sequence[str]) -> Cells:
    try:
        return _whole(texts)
    except ValueError:
        return _fractions(texts)


def _booleans(texts: Sequence[str]) -> Cells:
    return [BOOLEANS.get(text.strip().lower(), text or None) for text in texts]


def _texts(texts: Sequence[str]) -> Cells:
    return [text or None for text in texts]


def _whole(texts: Sequence[str]) -> Cells:
    """Raises ValueError."""
    found = _each(int, texts)
    _refuse_underscores(texts)
    if any(len(text) > SURE_DIGITS for text in texts):
        long = [cell for cell in found if cell is not None and not SMALLEST <= cell < BEYOND]
        if long:
            raise ValueError
    return found


def _fractions(texts: Sequence[str]) -> Cells:
    """Infinities are no numbers, as in JSON. Raises ValueError."""
    found = _each(float, texts)
    _refuse_underscores(texts)
    total = sum(filter(None, found))
    if math.isfinite(total):
        return found
    found = [None if cell is None or math.isnan(cell) else cell for cell in found]
    if any(cell is not None and math.isinf(cell) for cell in found):
        raise ValueError
    return found


def _each(read: Callable[[str], Any], texts: Sequence[str]) -> Cells:
    """Twice as fast where nothing is missing. Raises ValueError."""
    if "" in texts:
        return [read(text) if text else None for text in texts]
    return list(map(read, texts))


def _refuse_underscores(texts: Sequence[str]) -> None:
    """Python reads `1_000` as a number, and nobody else does. Raises ValueError."""
    if "_" in "".join(texts):
        raise ValueError


OPEN: tuple[Callable[[Sequence[str]], Cells], ...] = (_whole, _fractions, _texts)
