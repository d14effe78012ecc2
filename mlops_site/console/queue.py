"""Queue and workers: who is at what, what waits and why; pausing, draining, and taking work again.

Nothing here writes a row: each act goes through `training.services.admission`, as the API's does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from mlops_site.admission import NowHeld, held_now
from mlops_site.console.queue_board import QueueBoard, queue_board
from mlops_site.rights import HOLDS, OPENS_CONSOLE, has_right
from registry.holds import Admission
from registry.models import WHY_CHARACTERS
from training.services import admission

REFRESH_SECONDS = 5
PAGE = "admin:queue"


class Act(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    UNDRAIN = "undrain"


@dataclass(frozen=True)
class Button:
    act: Act
    words: str
    icon: str


@dataclass(frozen=True)
class Question:
    """What is asked before anything is done: what would happen, line by line."""

    act: Act
    title: str
    verb: str
    keep: str
    happens: Sequence[str]
    asks_why: bool = False


def queue_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """`context` is the frame's."""
    _check_may_see(request)
    return render(request, "console/queue.html", {**context, **_now(request)})


def queue_now(request: HttpRequest) -> HttpResponse:
    """Every piece that changes; each replaces the one of its id."""
    _check_may_see(request)
    return render(request, "console/queue_now.html", {**_now(request), "oob": True})


@require_GET
def queue_ask(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What an act would do, and the button that does it; nothing is done."""
    _check_may_act(request)
    question = _question(_act_of(request.GET.get("act", "")), held_now())
    told = {"question": question, "title": question.verb, "why_most": WHY_CHARACTERS}
    inside = "HX-Request" in request.headers
    template = "console/queue_ask.html" if inside else "console/queue_ask_page.html"
    return render(request, template, {**context, **told})


@require_POST
def queue_act(request: HttpRequest) -> HttpResponse:
    """Does it, and goes back to the page, which tells what holds now."""
    _check_may_act(request)
    act = _act_of(request.POST.get("act", ""))
    actor, why = request.user.get_username(), request.POST.get("why", "")
    DOES[act](actor, why)
    messages.success(request, DONE[act])
    return HttpResponseRedirect(reverse(PAGE))


DOES: dict[Act, Callable[[str, str], object]] = {
    Act.PAUSE: lambda actor, why: admission.pause(actor=actor, why=why),
    Act.RESUME: lambda actor, why: admission.resume(actor=actor),
    Act.DRAIN: lambda actor, why: admission.drain(actor=actor, why=why),
    Act.UNDRAIN: lambda actor, why: admission.undrain(actor=actor),
}
DONE = {
    Act.PAUSE: "Admission is paused. What is sent is accepted and waits.",
    Act.RESUME: "Admission is open. What waits is started as far as there is room.",
    Act.DRAIN: "The worker begins nothing new. This page says when nothing is left.",
    Act.UNDRAIN: "The worker takes work again.",
}


def headline(board: QueueBoard) -> str:
    """The page's answer, in words."""
    held = board.held
    if held.is_drained:
        return "The worker is drained"
    if held.admission.draining is not None:
        return "The worker is being drained"
    if held.admission.paused is not None:
        return "Admission is paused"
    if not board.running_count and not board.waiting_count:
        return "Nothing runs or waits"
    runs = "job runs" if board.running_count == 1 else "jobs run"
    waits = "waits" if board.waiting_count == 1 else "wait"
    return f"{board.running_count} {runs}, {board.waiting_count} {waits}"


def _now(request: HttpRequest) -> dict[str, Any]:
    moment = timezone.now()
    board = queue_board(now=moment)
    return {
        "title": "Queue and workers",
        "board": board,
        "headline": headline(board),
        "buttons": _buttons(board.held.admission) if has_right(request.user, HOLDS) else [],
        "refresh_seconds": REFRESH_SECONDS,
        "served_at": moment,
    }


def _buttons(told: Admission) -> list[Button]:
    """What does not apply is absent: a platform is either paused or it is not."""
    paused, draining = told.paused is not None, told.draining is not None
    return [
        Button(Act.RESUME, "Resume", "play")
        if paused
        else Button(Act.PAUSE, "Pause admission", "pause"),
        Button(Act.UNDRAIN, "Take work again", "play")
        if draining
        else Button(Act.DRAIN, "Drain the worker", "drain"),
    ]


def _question(act: Act, now: NowHeld) -> Question:
    waiting = f"{now.waiting} job{'s wait' if now.waiting != 1 else ' waits'}"
    goes_on = f"What is under way goes on to its end: {now.left.words}."
    served = "Models go on answering, and start when somebody asks them."
    happens: Sequence[str]
    if act is Act.PAUSE:
        happens = (
            "New jobs and batch predictions are accepted and wait; none is started.",
            f"{waiting} already, and stay{'s' if now.waiting == 1 else ''} in line.",
            *(goes_on, served),
            "Everybody sees that you paused it, and each job that waits says so.",
        )
        return Question(
            act, "Pause admission?", "Pause admission", "Keep it open", happens, asks_why=True
        )
    if act is Act.DRAIN:
        happens = (
            "The worker starts no job, no batch prediction and no build of an environment.",
            f"{goes_on} This page says when nothing is left; then the machine may be stopped.",
            "Containers that wait for a job are given up.",
            f"{waiting}; what is sent is accepted and waits, too.",
            served,
        )
        return Question(
            act, "Drain the worker?", "Drain the worker", "Not now", happens, asks_why=True
        )
    started = f"{waiting}: started in their order, as far as there is room."
    if act is Act.RESUME:
        still = "The worker is still being drained: nothing is started before it takes work again."
        draining = now.admission.draining is not None
        return Question(
            act, "Resume admission?", "Resume", "Not now", (still if draining else started,)
        )
    still = "Admission is still paused: no job is started before it is resumed."
    paused = now.admission.paused is not None
    happens = ("Environments are built again.", still if paused else started)
    return Question(act, "Take work again?", "Take work again", "Not now", happens)


def _act_of(value: str) -> Act:
    """Raises Http404 for an act that there is none of."""
    try:
        return Act(value)
    except ValueError:
        raise Http404("There is no such act.") from None


def _check_may_see(request: HttpRequest) -> None:
    """It names jobs, as the first page does."""
    if not has_right(request.user, OPENS_CONSOLE):
        raise PermissionDenied


def _check_may_act(request: HttpRequest) -> None:
    _check_may_see(request)
    if not has_right(request.user, HOLDS):
        raise PermissionDenied
