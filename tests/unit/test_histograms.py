"""Our histograms say to Prometheus what prometheus_client's own would."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from inference.histograms import Histograms

BUCKETS = (0.001, 0.5, 1, 30)
VALUES = (0.0, 0.001, 0.0011, 0.5, 0.7, 1, 29.9, 30, 31)


def page(kind: type[Histogram] | type[Histograms]) -> list[str]:
    """Without the moments at which prometheus_client's series began."""
    registry = CollectorRegistry()
    made = kind("seconds", "How long.", ("model", "stage"), buckets=BUCKETS, registry=registry)
    for value in VALUES:
        made.labels("a", "total").observe(value)
    made.labels("b", 'a "queue"').observe(2)
    told = generate_latest(registry).decode().splitlines()
    return [line for line in told if "_created" not in line]


def test_counts_sums_and_steps_are_the_same() -> None:
    assert page(Histograms) == page(Histogram)
