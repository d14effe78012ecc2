"""Charts of the console's pages: what `charts.js` draws, and the same in words for readers."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

Value = float | int | None


class Axis(StrEnum):
    """What a chart's horizontal axis counts."""

    TIME = "time"  # seconds since 1970, shown in the viewer's zone
    SECONDS = "seconds"  # since something began
    STEP = "step"


@dataclass(frozen=True)
class Line:
    """`kind` is a colour by its meaning: `main`, `good`, `bad`, `quiet`, `open`, `limit`."""

    name: str
    values: Sequence[Value]
    kind: str = "main"


@dataclass(frozen=True)
class Chart:
    """Lines over one axis. `told` is the number that counts, with its unit, beside the title.

    `stacked` bars are drawn where the values are counts of something.
    """

    id: str
    title: str
    told: str
    axis: Axis
    x: Sequence[float | int]
    lines: Sequence[Line]
    unit: str = ""
    are_counts: bool = False

    @property
    def is_empty(self) -> bool:
        return not any(_is_number(value) for line in self.lines for value in line.values)

    @property
    def data(self) -> str:
        """For the script: JSON, in which what is no number is missing."""
        lines = [
            {
                "name": line.name,
                "kind": line.kind,
                "values": [value if _is_number(value) else None for value in line.values],
            }
            for line in self.lines
        ]
        told = {"axis": self.axis, "x": list(self.x), "lines": lines, "unit": self.unit}
        return json.dumps({**told, "counts": self.are_counts})

    @property
    def label(self) -> str:
        """The chart in words."""
        spans = [_span_of(line) for line in self.lines]
        return f"{self.title}: {self.told}. " + "; ".join(span for span in spans if span)


def pair(half: float | None, most: float | None, words: Callable[[float], str], name: str) -> str:
    """What half of the values are at most, and nearly all of them."""
    if half is None or most is None:
        return "–"
    return f"{words(half)}, {name} {words(most)}"


def _span_of(line: Line) -> str:
    known = [value for value in line.values if value is not None and _is_number(value)]
    if not known:
        return ""
    if line.kind == "limit":
        return f"{line.name} {known[-1]:g}"
    return f"{line.name} from {min(known):g} to {max(known):g}, last {known[-1]:g}"


def _is_number(value: Value) -> bool:
    return value is not None and math.isfinite(value)
