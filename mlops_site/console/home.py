"""The console's first page: is everything well, what runs and waits, what failed, and how it goes.

The page and the two fragments that refresh it are made of the same pieces: what is now, asked for
every few seconds, and the last day, asked for less often. Nothing is probed twice for one page.
"""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from mlops_site.console.parts import WELL, headline, lines_of
from mlops_site.health import rows_now
from mlops_site.rights import OPENS_CONSOLE
from training.board import board_of
from training.day import Day, Hour, last_day
from training.models import Job
from training.services.claim import look_at_queue, room_of

CHART_WIDTH, CHART_HEIGHT = 300.0, 100.0
BAR_PART = 0.7
LEAST_SCALE = 4


@dataclass(frozen=True)
class Bar:
    """One rectangle of a chart."""

    kind: str
    x: float
    y: float
    width: float
    height: float


def page(request: HttpRequest) -> dict[str, Any]:
    """What the template of the first page needs."""
    return {"title": "Home", **_now(), **_day(), "address": request.build_absolute_uri("/")}


def may_see(request: HttpRequest) -> bool:
    """It names jobs: whoever may not see those sees nothing of it."""
    return isinstance(request.user, PermissionsMixin) and request.user.has_perm(OPENS_CONSOLE)


def now(request: HttpRequest) -> HttpResponse:
    """The pieces that say what is now; each replaces the one of its id."""
    _check_may_see(request)
    return render(request, "console/home_now.html", {**_now(), "oob": True})


def day(request: HttpRequest) -> HttpResponse:
    """The pieces of the last day."""
    _check_may_see(request)
    return render(request, "console/home_day.html", {**_day(), "oob": True})


def _check_may_see(request: HttpRequest) -> None:
    if not may_see(request):
        raise PermissionDenied


def _now() -> dict[str, Any]:
    moment = timezone.now()
    rows = rows_now()
    lines = lines_of(rows)
    queue = look_at_queue(room_of(rows.measured))
    return {
        "served_at": moment,
        "headline": headline(lines),
        "lines": lines,
        "unwell": [line for line in lines if line.state != WELL],
        "board": board_of(queue, now=moment),
    }


def _day() -> dict[str, Any]:
    told = last_day(now=timezone.now())
    highest = max(LEAST_SCALE, *(hour.jobs for hour in told.hours))
    return {
        "day": told,
        "bars": _bars(told, highest=highest),
        "highest": highest,
        "any_job": told.jobs > 0 or Job.objects.exists(),
    }


def _bars(told: Day, *, highest: int) -> list[Bar]:
    step = CHART_WIDTH / len(told.hours)
    return [
        bar
        for number, hour in enumerate(told.hours)
        for bar in _stack(hour, x=number * step, width=step * BAR_PART, highest=highest)
    ]


def _stack(hour: Hour, *, x: float, width: float, highest: int) -> list[Bar]:
    """From the bottom up, without those that have no height."""
    bars, top = [], CHART_HEIGHT
    counts = {
        "completed": hour.completed,
        "failed": hour.failed,
        "cancelled": hour.cancelled,
        "other": hour.open,
    }
    for kind, count in counts.items():
        height = CHART_HEIGHT * count / highest
        top -= height
        if count:
            bars.append(Bar(kind, round(x, 1), round(top, 1), round(width, 1), round(height, 1)))
    return bars
