"""How jobs and predictions went over the last hour, day or week, as charts of the first page.

Made of rows that were counted before: what a chart costs does not grow with what it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from inference.prediction_charts import prediction_charts
from inference.prediction_tallies import Answered
from registry.charts import Axis, Chart, Line, pair
from registry.console import grouped, span
from registry.steps import summed
from registry.windows import Window
from training.day import spread_of
from training.tallies import Tally


@dataclass(frozen=True)
class Trends:
    """`charts` are those that have something to show; `missing` says of the others why not."""

    window: Window
    charts: Sequence[Chart]
    missing: Sequence[str]


def trends_of(
    window: Window, bars: Sequence[Tally], points: Sequence[Answered], *, now: datetime
) -> Trends:
    return Trends(
        window,
        [*_job_charts(bars), *prediction_charts(points, now=now, prefix="trend")],
        list(_missing(window, bars, points)),
    )


def _missing(window: Window, bars: Sequence[Tally], points: Sequence[Answered]) -> list[str]:
    words = []
    if not any(bar.jobs for bar in bars):
        words.append(f"No job was accepted in the last {window.name}.")
    if not any(point.answered or point.failed for point in points):
        words.append(f"No prediction was asked for in the last {window.name}.")
    return words


def _job_charts(bars: Sequence[Tally]) -> list[Chart]:
    jobs = sum(bar.jobs for bar in bars)
    if not jobs:
        return []
    x = [int(bar.begins_at.timestamp()) for bar in bars]
    counts = [
        Line("completed", [bar.completed for bar in bars], "good"),
        Line("failed", [bar.failed for bar in bars], "bad"),
        Line("cancelled", [bar.cancelled for bar in bars], "quiet"),
        Line("not ended", [bar.open for bar in bars], "open"),
    ]
    whole = _success(sum(bar.completed for bar in bars), sum(bar.ended for bar in bars))
    success = [_success(bar.completed, bar.ended) for bar in bars]
    told = "none has ended" if whole is None else f"{whole:g} %"
    charts = [
        Chart("trend-jobs", "Jobs", grouped(jobs), Axis.TIME, x, counts, are_counts=True),
        Chart(
            "trend-success",
            "Success",
            told,
            Axis.TIME,
            x,
            [Line("success", success, "good")],
            unit="%",
        ),
        _spread("trend-wait", "Wait", x, [bar.waits for bar in bars]),
        _spread("trend-output", "Accepted to first line", x, [bar.first_outputs for bar in bars]),
        _spread("trend-duration", "Duration of completed jobs", x, [b.durations for b in bars]),
    ]
    return [chart for chart in charts if not chart.is_empty]


def _spread(id: str, title: str, x: Sequence[int], counts: Sequence[Sequence[int]]) -> Chart:
    whole, each = spread_of(summed(counts)), [spread_of(one) for one in counts]
    lines = [
        Line("p50", [one.p50 for one in each]),
        Line("p95", [one.p95 for one in each], "quiet"),
    ]
    told = pair(whole.p50, whole.p95, span, "p95")
    return Chart(id, title, told, Axis.TIME, x, lines, unit="s")


def _success(completed: int, ended: int) -> float | None:
    return round(100 * completed / ended, 1) if ended else None
