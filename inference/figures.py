"""What this web process has counted of each version since it began, in numbers for a page.

The same counts that Prometheus reads at `/metrics`; whoever wants more than one process or the past
asks Prometheus. Times are read from a histogram: true to the width of its steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from inference import metrics
from inference.histograms import Histograms

Key = tuple[str, str]
Step = tuple[float, float]
MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds that half, 95 and 99 of a hundred answers took at most."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Figures:
    """Of one version, or of several together. `errors` has how many by the problem's code."""

    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    lanes: Mapping[str, int] = field(default_factory=dict)
    cold_starts: int = 0
    whole: Latency | None = None
    model: Latency | None = None

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


NOTHING = Figures()


def figures_of(key: Key) -> Figures:
    """All that is told of one version."""
    mine = _Mine({"model": key[0], "version": key[1]})
    return Figures(
        requests=mine.count(metrics.REQUESTS),
        errors=mine.counts(metrics.ERRORS, "code"),
        lanes=mine.counts(metrics.LANES, "lane"),
        cold_starts=mine.count(metrics.COLD_STARTS),
        whole=mine.latency("total"),
        model=mine.latency("model"),
    )


def counted() -> dict[str, Figures]:
    """Requests and errors by the name of the model, for lists."""
    requests: dict[str, int] = {}
    for sample in _samples(metrics.REQUESTS):
        name = sample.labels["model"]
        requests[name] = requests.get(name, 0) + int(sample.value)
    errors: dict[str, dict[str, int]] = {}
    for sample in _samples(metrics.ERRORS):
        codes = errors.setdefault(sample.labels["model"], {})
        code = sample.labels["code"]
        codes[code] = codes.get(code, 0) + int(sample.value)
    return {
        name: Figures(requests=requests.get(name, 0), errors=errors.get(name, {}))
        for name in {*requests, *errors}
    }


@dataclass(frozen=True)
class _Mine:
    """The samples that have these labels."""

    labels: Mapping[str, str]

    def count(self, counter: Counter) -> int:
        return sum(int(sample.value) for sample in self._of(counter))

    def counts(self, counter: Counter, label: str) -> dict[str, int]:
        found = {sample.labels[label]: int(sample.value) for sample in self._of(counter)}
        return {name: count for name, count in found.items() if count}

    def latency(self, stage: str) -> Latency | None:
        """None before there was an answer."""
        steps = sorted(
            (float(sample.labels["le"]), sample.value)
            for sample in self._of(metrics.STAGES)
            if sample.name.endswith("_bucket") and sample.labels["stage"] == stage
        )
        if not steps or not steps[-1][1]:
            return None
        return Latency(*(percentile(steps, share) * MILLISECONDS for share in (0.5, 0.95, 0.99)))

    def _of(self, metric: Counter | Histograms) -> list[Sample]:
        return [
            sample for sample in _samples(metric) if self.labels.items() <= sample.labels.items()
        ]


def percentile(steps: Sequence[Step], share: float) -> float:
    """From counts of what was at most so much, as if what is in a step lay evenly in it."""
    wanted = steps[-1][1] * share
    below, counted_below = 0.0, 0.0
    for most, count in steps:
        if count >= wanted:
            if math.isinf(most) or count == counted_below:
                return below
            return below + (most - below) * (wanted - counted_below) / (count - counted_below)
        below, counted_below = most, count
    return below


def _samples(metric: Counter | Histograms) -> list[Sample]:
    """Without the moments at which the series began, which are samples too."""
    found: list[Metric] = list(metric.collect())
    return [
        sample for one in found for sample in one.samples if not sample.name.endswith("_created")
    ]
