"""A figure beside its floor, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

COLUMNS = ("figure", "ours", "floor", "ratio", "bar", "", "what the floor is")


@dataclass(frozen=True)
class Bar:
    """What the figure should not exceed: an amount, or a multiple of its floor."""

    most: float
    times_floor: bool = False

    def text(self, unit: str) -> str:
        return f"≤ {self.most:g}×" if self.times_floor else f"≤ {self.most:g} {unit}"


@dataclass(frozen=True)
class Figure:
    """One row. `samples` are what `ours` was chosen from, in the order they were taken."""

    name: str
    unit: str
    ours: float
    floor: float | None = None
    floor_is: str = ""
    bar: Bar | None = None
    samples: tuple[float, ...] = ()
    floor_samples: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        return self.ours / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """None where there is no bar."""
        if self.bar is None:
            return None
        measured = self.ratio if self.bar.times_floor else self.ours
        return measured is not None and measured <= self.bar.most

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            _amount(self.ours, self.unit),
            "" if self.floor is None else _amount(self.floor, self.unit),
            "" if self.ratio is None else f"{self.ratio:.2f}×",
            "" if self.bar is None else self.bar.text(self.unit),
            {True: "met", False: "MISSED", None: ""}[self.met],
            self.floor_is,
        )


def table(figures: Sequence[Figure]) -> str:
    """Aligned text: names and remarks to the left, amounts to the right."""
    rows = [COLUMNS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = range(1, 4)
    cells = [
        cell.rjust(width) if column in numbers else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _amount(value: float, unit: str) -> str:
    digits = 0 if unit == "MB" else 2
    return f"{value:.{digits}f} {unit}"
