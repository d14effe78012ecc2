"""A question before every act on a model, and what was done after it."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST
from rest_framework.exceptions import APIException

from inference import rights
from inference.console import acts, questions
from inference.console.acts import Outcome
from inference.console.questions import Action, Question, Target

LONGEST = 9


@require_POST
def ask(request: HttpRequest, context: dict[str, Any], name: str) -> HttpResponse:
    """What would happen, and the button that does it; nothing is done. Raises Http404."""
    action, target = _asked(request, name)
    if action not in questions.ASKED_FIRST:
        raise Http404("Nothing is asked before this act.")
    try:
        question = questions.question(action, target)
    except APIException as error:
        question = questions.cannot(action, target, str(error.detail))
    return _shown(request, context, question)


@require_POST
def act(request: HttpRequest, context: dict[str, Any], name: str) -> HttpResponse:
    """Does it, and goes back to where it was asked for, which tells what was done. Raises Http404.

    What was filled in wrong is asked once more.
    """
    action, target = _asked(request, name)
    outcome = acts.carry_out(action, target, request.POST, actor=request.user.get_username())
    if outcome.again is not None:
        return _shown(request, context, outcome.again)
    _tell(request, outcome)
    return HttpResponseRedirect(_back(request.POST, target))


def _asked(request: HttpRequest, name: str) -> tuple[Action, Target]:
    """Raises Http404 for what is no act, or is about no version; PermissionDenied."""
    if not rights.may_operate(request.user):
        raise PermissionDenied
    sent = request.POST
    try:
        action = Action(sent.get("action", ""))
    except ValueError:
        raise Http404("There is no such action.") from None
    target = Target(
        name,
        version=_number(sent, "version"),
        alias=sent.get("alias", ""),
        to=_number(sent, "to"),
        replica=int(_number(sent, "replica")) if sent.get("replica") else None,
    )
    if action in (Action.PROMOTE, Action.START, Action.STOP) and not target.version:
        raise Http404("This act is about a version.")
    return action, target


def _number(sent: QueryDict, name: str) -> str:
    """Empty where none was sent. Raises Http404 for what is none."""
    text = sent.get(name, "")
    if text and not (text.isascii() and text.isdecimal() and len(text) <= LONGEST):
        raise Http404("There is no such version.")
    return text


def _shown(request: HttpRequest, context: dict[str, Any], question: Question) -> HttpResponse:
    told = {
        "title": question.title,
        "question": question,
        "name": question.target.name,
        "page": _number(request.POST, "page"),
        "back": _back(request.POST, question.target),
    }
    inside = "HX-Request" in request.headers
    template = "console/model_ask.html" if inside else "console/model_ask_page.html"
    return render(request, template, {**context, **told})


def _tell(request: HttpRequest, outcome: Outcome) -> None:
    if outcome.told:
        messages.success(request, outcome.told)
    if outcome.refused:
        messages.warning(request, outcome.refused)


def _back(sent: QueryDict, target: Target) -> str:
    """The page of the version that it was asked on, or else of the model; nothing else."""
    page = _number(sent, "page")
    if page:
        return reverse("admin:model_version", args=[target.name, page])
    return reverse("admin:model", args=[target.name])
