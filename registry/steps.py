"""Measured values counted by steps, so that many can be kept in few numbers and put together."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import add


def counted(values: Iterable[float], steps: Sequence[float]) -> list[int]:
    """How many values were at most each step and more than the one before; the last, more than all.

    Empty without a value.
    """
    counts: list[int] = []
    for value in values:
        counts = counts or [0] * (len(steps) + 1)
        counts[bisect_left(steps, value)] += 1
    return counts


def added(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Both together; one that is empty, or was counted by other steps, says nothing."""
    if len(first) != len(second):
        return list(first or second)
    return list(map(add, first, second))


def summed(counts: Iterable[Sequence[int]]) -> Sequence[int]:
    """All together, as `added`."""
    whole: Sequence[int] = ()
    for each in counts:
        whole = added(whole, each)
    return whole


def percentile(counts: Sequence[int], steps: Sequence[float], share: float) -> float | None:
    """As if what is in a step lay evenly in it; None without a value."""
    wanted, so_far = sum(counts) * share, 0
    if not wanted:
        return None
    for number, count in enumerate(counts):
        if count and so_far + count >= wanted:
            if number == len(steps):
                return steps[-1]
            below = steps[number - 1] if number else 0.0
            return below + (steps[number] - below) * (wanted - so_far) / count
        so_far += count
    return steps[-1]
