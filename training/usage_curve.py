"""Memory and CPU of a job over its time, in few points however long it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

FIRST_STEP_SECONDS = 5
POINTS_MOST = 240
# So long each sample is worth a row of its own: a short job would have no curve otherwise.
SHORT = 12


@dataclass(frozen=True)
class Sample:
    """What a container used `at` seconds after its start; CPU seconds since it was made."""

    at: float
    memory_bytes: int
    cpu_seconds: float


@dataclass
class UsageCurve:
    """In steps of equal length: the highest memory in bytes, and the CPUs on average.

    A step in which nobody looked is None. When there are too many points, two become one.
    """

    step_seconds: int = FIRST_STEP_SECONDS
    memory: list[int | None] = field(default_factory=list)
    cpus: list[float | None] = field(default_factory=list)
    _before: Sample | None = None
    _last: Sample | None = None

    def add(self, sample: Sample) -> bool:
        """Whether it is worth writing down now. One that is older than the last is left out."""
        if self._last is not None and sample.at <= self._last.at:
            return False
        index = int(sample.at // self.step_seconds)
        grown = index >= len(self.memory)
        if grown:
            self._before = self._last
            self._fill(index)
        self.memory[index] = max(self.memory[index] or 0, sample.memory_bytes)
        self.cpus[index] = self._cpus(sample)
        self._last = sample
        if len(self.memory) > POINTS_MOST:
            self._halve()
        return grown or len(self.memory) < SHORT

    def _fill(self, index: int) -> None:
        missing = index + 1 - len(self.memory)
        self.memory += [None] * missing
        self.cpus += [None] * missing

    def _cpus(self, sample: Sample) -> float | None:
        """Since the last sample before this step; of the first sample nobody knows."""
        since = self._before
        if since is None:
            self._before = sample
            return None
        spent = max(0.0, sample.cpu_seconds - since.cpu_seconds)
        return round(spent / (sample.at - since.at), 3) if sample.at > since.at else None

    def _halve(self) -> None:
        while len(self.memory) > POINTS_MOST // 2:
            self.step_seconds *= 2
            self.memory = [_highest(pair) for pair in _pairs(self.memory)]
            self.cpus = [_average(pair) for pair in _pairs(self.cpus)]


def _pairs(values: Sequence[float | None]) -> list[list[float]]:
    found = zip_longest(values[::2], values[1::2])
    return [[value for value in pair if value is not None] for pair in found]


def _highest(values: Sequence[float]) -> int | None:
    return int(max(values)) if values else None


def _average(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None
