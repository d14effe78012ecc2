"""Predictions a second and their latency over time, as charts of a page."""

from collections.abc import Sequence
from datetime import datetime

from inference import metrics
from inference.prediction_tallies import Answered
from registry.charts import Axis, Chart, Line, pair
from registry.console import grouped, milliseconds
from registry.steps import percentile, summed

MS = 1000.0


def prediction_charts(points: Sequence[Answered], *, now: datetime, prefix: str) -> list[Chart]:
    """Those that have something to show; `prefix` tells their ids from those of another page."""
    if not any(point.answered or point.failed for point in points):
        return []
    x = [int(point.begins_at.timestamp()) for point in points]
    charts = [_rates(points, x, now=now, prefix=prefix), _latency(points, x, prefix=prefix)]
    return [chart for chart in charts if not chart.is_empty]


def _rates(points: Sequence[Answered], x: Sequence[int], *, now: datetime, prefix: str) -> Chart:
    ends = [*(point.begins_at for point in points[1:]), now]
    lines = [
        Line("answered", [_rate(p.answered, p, end) for p, end in zip(points, ends, strict=True)]),
        Line(
            "refused", [_rate(p.failed, p, end) for p, end in zip(points, ends, strict=True)], "bad"
        ),
    ]
    told = f"{grouped(sum(point.answered for point in points))} in all"
    return Chart(f"{prefix}-rate", "Predictions per second", told, Axis.TIME, x, lines, unit="/s")


def _rate(count: int, point: Answered, end: datetime) -> float:
    """Of the last point, that lasts, over the time that it has lasted."""
    return round(count / max(1.0, (end - point.begins_at).total_seconds()), 4)


def _latency(points: Sequence[Answered], x: Sequence[int], *, prefix: str) -> Chart:
    counts = [point.latencies for point in points]
    p50, p99 = (_milliseconds(summed(counts), share) for share in (0.5, 0.99))
    lines = [
        Line("p50", [_milliseconds(each, 0.5) for each in counts]),
        Line("p99", [_milliseconds(each, 0.99) for each in counts], "quiet"),
    ]
    told = pair(p50, p99, milliseconds, "p99")
    return Chart(f"{prefix}-latency", "Latency", told, Axis.TIME, x, lines, unit="ms")


def _milliseconds(counts: Sequence[int], share: float) -> float | None:
    value = percentile(counts, metrics.SECONDS, share)
    return None if value is None else round(value * MS, 3)
