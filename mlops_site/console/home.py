"""The console's first page: is everything well, what runs and waits, what failed, and how it goes.

The page and the two fragments that refresh it are made of the same pieces: what is now, asked for
every few seconds, and the last day, asked for less often. Nothing is probed twice for one page.
"""

from typing import Any

from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from inference.prediction_tallies import answers_over
from mlops_site.console import home_charts
from mlops_site.console.parts import WELL, headline, lines_of
from mlops_site.health import rows_now
from mlops_site.rights import OPENS_CONSOLE
from registry.windows import DAY, WINDOWS, window_of
from training.board import board_of
from training.day import last_day
from training.services.claim import look_at_queue, room_of
from training.tallies import tallies_over


def page(request: HttpRequest) -> dict[str, Any]:
    """What the template of the first page needs."""
    return {"title": "Home", **_now(), **_day(request), "address": request.build_absolute_uri("/")}


def may_see(request: HttpRequest) -> bool:
    """It names jobs: whoever may not see those sees nothing of it."""
    return isinstance(request.user, PermissionsMixin) and request.user.has_perm(OPENS_CONSOLE)


def now(request: HttpRequest) -> HttpResponse:
    """The pieces that say what is now; each replaces the one of its id."""
    _check_may_see(request)
    return render(request, "console/home_now.html", {**_now(), "oob": True})


def day(request: HttpRequest) -> HttpResponse:
    """The pieces of the last day, and the charts over what `over` says."""
    _check_may_see(request)
    return render(request, "console/home_day.html", {**_day(request), "oob": True})


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
        "admission": rows.admission,
        "unwell": [line for line in lines if line.state != WELL],
        "board": board_of(queue, now=moment),
    }


def _day(request: HttpRequest) -> dict[str, Any]:
    moment = timezone.now()
    window = window_of(request.GET.get("over", ""))
    bars = tallies_over({DAY, window}, now=moment)
    points = answers_over(window.length, points=window.points, now=moment)
    return {
        "day": last_day(bars[DAY], now=moment),
        "windows": WINDOWS.values(),
        "trends": home_charts.trends_of(window, bars[window], points, now=moment),
    }
