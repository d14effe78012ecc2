"""The pages of environments: what takes the disk and who needs it; one with all that is in it.

While something is about to become of one, what changes is asked for again and replaced by its ids.
Each question before an act says what happens to which environment. Nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from registry.console import size
from registry.list_queries import LIMIT_MAX
from sandbox.image.lock_file import name_and_version, pins_in
from training.board import state_words
from training.console import environment_acts as acts
from training.console import environment_filters as filters
from training.console.build_log import is_growing, log_bytes
from training.console.environment_rows import Row, rows_of, size_in_words
from training.environment_listing import (
    LONG_COLUMNS,
    ON_DISK,
    Disk,
    Order,
    State,
    disk_now,
    numbered,
    unused,
)
from training.listing import LONG_COLUMNS as LONG_JOB_COLUMNS
from training.models import BuiltEnvironment, EngineCapacity, Job
from training.rights import Person, may_change_environments

LIST = "admin:training_builtenvironment_changelist"
PAGE = "admin:training_builtenvironment_change"
REFRESH_SECONDS = 2
ON_A_PAGE = 50
UNUSED_DAYS = 30
JOBS_SHOWN = 10
# Above this part of the budget the next builds make others go.
NEARLY_FULL = 90
LOCKS = {"requirements.txt": "lock", "pylock.toml": "pylock"}


@dataclass(frozen=True)
class Control:
    """A button; `why_not` is empty for one that can be used.

    `told_by` is the action beside whose button that is said: one reason for both is said once.
    """

    action: acts.Action
    words: str
    icon: str
    why_not: str
    told_by: acts.Action


def list_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's. A form's empty fields are cleared away: an address is a link."""
    now = timezone.now()
    asked = filters.read(request.GET, now=now)
    if asked.parameters != request.GET:
        return HttpResponseRedirect(_address(asked.parameters.urlencode()))
    found: list[Row] = []
    if not asked.wrong:
        offset = (asked.page - 1) * ON_A_PAGE
        found = rows_of(numbered(asked.wanted, asked.order, offset=offset, limit=ON_A_PAGE + 1))
    rows = found[:ON_A_PAGE]
    told = {
        "title": "Environments",
        "asked": asked,
        "rows": rows,
        "first": (asked.page - 1) * ON_A_PAGE + 1,
        "last": (asked.page - 1) * ON_A_PAGE + len(rows),
        "alive": [row for row in rows if row.is_alive],
        "newer": asked.at_page(asked.page - 1) if asked.page > 1 else "",
        "older": asked.at_page(asked.page + 1) if len(found) > ON_A_PAGE else "",
        "chips": filters.chips_of(asked),
        "tabs": filters.tabs_of(asked),
        "choices": filters.choices_of(asked),
        "sorts": {order.value: asked.sorted_by(order) for order in Order},
        "may_act": may_change_environments(request.user),
        "refresh_seconds": REFRESH_SECONDS,
        "served_at": now,
        **_disk(),
        **_unused(),
    }
    return render(request, "console/environments.html", {**context, **told})


def list_now(request: HttpRequest) -> HttpResponse:
    """What of some rows changes while one looks; in the end nothing asks for it any more."""
    rows = acts.chosen(request.GET.getlist("environment"))
    told = {
        "rows": rows,
        "alive": [row for row in rows if row.is_alive],
        "refresh_seconds": REFRESH_SECONDS,
        "oob": True,
    }
    return render(request, "console/environments_now.html", told)


def one_page(request: HttpRequest, context: dict[str, Any], key: str) -> HttpResponse:
    """All of one. Raises Http404 where there is none of this key."""
    environment = BuiltEnvironment.objects.filter(pk=key).first()
    if environment is None:
        raise Http404("There is no such environment.")
    told = {
        **_one(request, key),
        **_contents(environment),
        "jobs": _jobs_in(key),
        "served_at": timezone.now(),
    }
    return render(request, "console/environment.html", {**context, **told})


def one_now(request: HttpRequest, key: str) -> HttpResponse:
    """The pieces that change; the packages when the build has ended. The log asks by itself."""
    told = {**_one(request, key), "oob": True}
    if not told["row"].is_alive:
        told |= _contents(BuiltEnvironment.objects.get(pk=key))
    return render(request, "console/environment_now.html", told)


def lock_file(key: str, name: str) -> HttpResponse:
    """The lock as a file. Raises Http404 where there is none in this form."""
    column = LOCKS.get(name, "")
    row = BuiltEnvironment.objects.filter(pk=key).values(*LOCKS.values()).first()
    if row is None or not row.get(column):
        raise Http404("There is no such lock.")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(row[column], content_type="text/plain; charset=utf-8", headers=headers)


@require_POST
def ask(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What would happen to the chosen environments, and the button that does it."""
    action, rows = _asked(request)
    plan = acts.plan_of(action, rows, person=request.user)
    told = {"plan": plan, "back": _back(request), "title": plan.what}
    inside = "HX-Request" in request.headers
    template = "console/environments_ask.html" if inside else "console/environments_ask_page.html"
    return render(request, template, {**context, **told})


@require_POST
def act(request: HttpRequest) -> HttpResponse:
    """Asks for it, and goes back to where it was asked for, which tells what was done."""
    action, rows = _asked(request)
    outcome = acts.carry_out(action, rows, person=request.user)
    if outcome.done:
        messages.success(request, outcome.told)
    if outcome.refused:
        messages.warning(request, outcome.refusals)
    if not rows:
        messages.warning(request, "No environment was selected, or none of them is there any more.")
    return HttpResponseRedirect(_back(request)["address"])


def _asked(request: HttpRequest) -> tuple[acts.Action, list[Row]]:
    """Raises Http404 for an action that there is none of."""
    try:
        action = acts.Action(request.POST.get("action", ""))
    except ValueError:
        raise Http404("There is no such action.") from None
    return action, acts.chosen(request.POST.getlist("environment"))


def _back(request: HttpRequest) -> dict[str, str]:
    """Where somebody was who asks for an act: whatever was sent, it is one of our two pages."""
    query, key = request.POST.get("back", ""), request.POST.get("page", "")
    address = reverse(PAGE, args=[key]) if key.isalnum() else _address(query)
    return {"query": query, "page": key, "address": address}


def _address(query: str) -> str:
    return f"{reverse(LIST)}?{query}" if query else reverse(LIST)


# -- the list --------------------------------------------------------------------------------------
def _disk() -> dict[str, Any]:
    disk = disk_now()
    engine = EngineCapacity.objects.order_by("-measured_at").first()
    free = engine.disk_free_mb if engine else None
    return {
        "disk": disk,
        "used": size_in_words(disk.used_bytes),
        "most": size_in_words(disk.most_bytes) if disk.most_bytes else "",
        "is_nearly_full": disk.percent >= NEARLY_FULL,
        "fullness": _fullness(disk),
        "free": None if free is None else size(free),
        "is_short": free is not None and free < settings.DISK_FREE_MB,
        "least_free": size(settings.DISK_FREE_MB),
        "any": disk.on_disk + disk.gone + disk.failed > 0,
    }


def _fullness(disk: Disk) -> str:
    """What the budget does, in a sentence."""
    if not disk.most_bytes:
        return "There is no budget: none is deleted by itself."
    if disk.used_bytes <= disk.most_bytes:
        return "Above the budget the least recently used go by themselves."
    return "More than the budget: those that nobody needs go within ten minutes."


def _unused() -> dict[str, Any]:
    found = unused(days=UNUSED_DAYS, now=timezone.now())
    return {
        "unused": found,
        "unused_keys": found.keys[:LIMIT_MAX],
        "unused_size": size_in_words(found.size_bytes),
    }


# -- one environment -------------------------------------------------------------------------------
def _one(request: HttpRequest, key: str) -> dict[str, Any]:
    found = rows_of(BuiltEnvironment.objects.filter(pk=key).defer(*LONG_COLUMNS))
    if not found:
        raise Http404("There is no such environment.")
    row = found[0]
    environment: Any = row.environment
    python = environment.python_version
    return {
        "title": f"{environment.get_state_display()} · environment {row.short_key}",
        "row": row,
        "environment": environment,
        "controls": _controls(row, person=request.user),
        "image": settings.PYTHON_IMAGES.get(python, ""),
        "requirements": environment.requirements,
        "refresh_seconds": REFRESH_SECONDS,
        "is_on_disk": environment.state in ON_DISK and environment.state != State.FAILED,
    }


def _controls(row: Row, *, person: Person) -> list[Control]:
    """What one may never do is absent; what cannot be done now says why."""
    if not may_change_environments(person):
        return []
    looks = {acts.Action.REBUILD: ("Build again", "rerun"), acts.Action.DELETE: ("Delete", "trash")}
    controls = []
    told_by: dict[str, acts.Action] = {}
    for action, (words, icon) in looks.items():
        step = acts.step_of(action, row, person=person)
        why_not = "" if step.acts else f"It {step.says.partition(': nothing')[0]}."
        told_by.setdefault(why_not, action)
        controls.append(Control(action, words, icon, why_not, told_by[why_not]))
    return controls


def _contents(environment: BuiltEnvironment) -> dict[str, Any]:
    """What is long: the packages, and how much the last build printed."""
    return {
        "contents_shown": True,
        "packages": [name_and_version(pin) for pin in pins_in(environment.lock)],
        "locks": [name for name, column in LOCKS.items() if getattr(environment, column)],
        "parts": [[0, "Environment"]],
        "log_bytes": len(log_bytes(environment)),
        "log_grows": is_growing(environment),
    }


def _jobs_in(key: str) -> Sequence[dict[str, Any]]:
    """The newest, each with its state in words."""
    jobs = Job.objects.filter(environment_key=key).defer(*LONG_JOB_COLUMNS)
    newest = jobs.order_by("-created_at", "-id")[:JOBS_SHOWN]
    return [{"job": job, "words": state_words(job)} for job in newest]
