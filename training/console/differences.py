"""What differs between two texts, line beside line, in bounded time whatever the texts are.

`difflib` takes time that grows with the cube of a hostile text's length: what both begin and end
with is set aside first, and its work ends at a deadline. What was not matched by then is shown as
replaced, which is true, if not the shortest way to say it.
"""

import difflib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

SECONDS = 0.5
# Of each text; what follows is told to be there and not compared.
LINES_MOST = 20_000
# One step of difflib takes too long to be interrupted on more lines that differ.
MATCHED_MOST = 4_000
LINE_CHARACTERS = 1_000
# Equal lines that are shown around what differs; fewer than a fold is worth are shown too.
AROUND, LEAST_FOLD = 3, 4
ROWS_MOST = 3_000
# Longer lines have no marks inside; so have pairs that have little in common.
MARKED_CHARACTERS, ALIKE = 400, 0.4
TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Bit:
    """A stretch of a line; `changed` where the other side has something else."""

    text: str
    changed: bool = False


@dataclass(frozen=True)
class Side:
    """One line of one text."""

    number: int
    bits: tuple[Bit, ...]


@dataclass(frozen=True)
class Row:
    """A line of both, or of one; `folded` stands for so many equal lines that are not shown."""

    left: Side | None = None
    right: Side | None = None
    is_same: bool = False
    folded: int = 0


@dataclass(frozen=True)
class Difference:
    """`rows` is empty when both are the same; `is_cut` when there is more than is shown."""

    rows: Sequence[Row]
    added: int
    removed: int
    is_cut: bool = False


class _Late(Exception):
    """The deadline has passed."""


class _Matcher(difflib.SequenceMatcher[str]):
    """One that gives up in time: a step of it is short, and there may be thousands."""

    def __init__(self, a: Sequence[str], b: Sequence[str], *, until: float) -> None:
        self._until = until
        super().__init__(None, a, b)

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        if time.monotonic() > self._until:
            raise _Late
        return super().find_longest_match(alo, ahi, blo, bhi)


def difference(left: str, right: str, *, folds: int = LEAST_FOLD) -> Difference:
    """Of two texts by their lines. So many equal lines in a row are folded; 0 folds none."""
    until = time.monotonic() + SECONDS
    one, other = _lines(left), _lines(right)
    is_long = max(len(one), len(other)) > LINES_MOST
    one, other = one[:LINES_MOST], other[:LINES_MOST]
    blocks = _blocks(one, other, until=until)
    added = sum(end - start for same, (_, _, start, end) in blocks if not same)
    removed = sum(end - start for same, (start, end, _, _) in blocks if not same)
    if added == removed == 0:
        return Difference([], 0, 0, is_cut=is_long and left != right)
    every = _rows(one, other, blocks, folds=folds, until=until)
    rows = list(islice(every, ROWS_MOST + 1))
    return Difference(rows[:ROWS_MOST], added, removed, is_long or len(rows) > ROWS_MOST)


def _lines(text: str) -> list[str]:
    """As an editor counts them: by newlines and by nothing else."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


# -- which lines are the same ----------------------------------------------------------------------
_Block = tuple[bool, tuple[int, int, int, int]]


def _blocks(one: Sequence[str], other: Sequence[str], *, until: float) -> list[_Block]:
    """Stretches that are the same or not: from and to of one, from and to of the other."""
    shorter = min(len(one), len(other))
    head = next((n for n in range(shorter) if one[n] != other[n]), shorter)
    tail = next((n for n in range(shorter - head) if one[-1 - n] != other[-1 - n]), shorter - head)
    end, other_end = len(one) - tail, len(other) - tail
    middle = _middle(one[head:end], other[head:other_end], until=until)
    moved = [(same, (a + head, b + head, c + head, d + head)) for same, (a, b, c, d) in middle]
    found = [(True, (0, head, 0, head)), *moved, (True, (end, len(one), other_end, len(other)))]
    return [block for block in found if block[1][0] < block[1][1] or block[1][2] < block[1][3]]


def _middle(one: Sequence[str], other: Sequence[str], *, until: float) -> list[_Block]:
    replaced: list[_Block] = [(False, (0, len(one), 0, len(other)))]
    if max(len(one), len(other)) > MATCHED_MOST:
        return replaced
    try:
        codes = _Matcher(one, other, until=until).get_opcodes()
    except _Late:
        return replaced
    return [(tag == "equal", (a, b, c, d)) for tag, a, b, c, d in codes]


# -- how they are shown ----------------------------------------------------------------------------
def _rows(
    one: Sequence[str],
    other: Sequence[str],
    blocks: Sequence[_Block],
    *,
    folds: int,
    until: float,
) -> Iterator[Row]:
    for number, (same, (a, b, c, d)) in enumerate(blocks):
        if not same:
            yield from _changed(one[a:b], other[c:d], at=(a, c), until=until)
            continue
        first = 0 if number == 0 else AROUND
        last = 0 if number == len(blocks) - 1 else AROUND
        hidden = (b - a) - first - last
        if folds == 0 or hidden < folds:
            first, hidden = b - a, 0
        yield from (_same(one[a + n], a + n, c + n) for n in range(first))
        if hidden:
            yield Row(folded=hidden)
            yield from (_same(one[b - n], b - n, d - n) for n in range(last, 0, -1))


def _same(line: str, left: int, right: int) -> Row:
    bits = (Bit(_cut(line)),)
    return Row(Side(left + 1, bits), Side(right + 1, bits), is_same=True)


def _changed(
    one: Sequence[str], other: Sequence[str], *, at: tuple[int, int], until: float
) -> Iterator[Row]:
    """Line beside line as far as both have one; each pair with what differs inside of it."""
    left, right = at
    for number in range(max(len(one), len(other))):
        if number >= len(one):
            yield Row(None, Side(right + number + 1, (Bit(_cut(other[number])),)))
        elif number >= len(other):
            yield Row(Side(left + number + 1, (Bit(_cut(one[number])),)), None)
        else:
            bits, other_bits = _marked(_cut(one[number]), _cut(other[number]), until=until)
            yield Row(Side(left + number + 1, bits), Side(right + number + 1, other_bits))


def _marked(one: str, other: str, *, until: float) -> tuple[tuple[Bit, ...], tuple[Bit, ...]]:
    plain = (Bit(one),), (Bit(other),)
    if max(len(one), len(other)) > MARKED_CHARACTERS:
        return plain
    words, other_words = TOKEN.findall(one), TOKEN.findall(other)
    try:
        matcher = _Matcher(words, other_words, until=until)
        codes = matcher.get_opcodes()
    except _Late:
        return plain
    kept = sum(len("".join(words[a:b])) for tag, a, b, _, _ in codes if tag == "equal")
    if kept < ALIKE * max(len(one), len(other)):
        return plain
    left = tuple(Bit("".join(words[a:b]), tag != "equal") for tag, a, b, _, _ in codes if a < b)
    right = tuple(
        Bit("".join(other_words[c:d]), tag != "equal") for tag, _, _, c, d in codes if c < d
    )
    return left, right


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…"
