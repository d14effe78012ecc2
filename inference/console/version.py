"""The page of one version: try it, whether it is better than the one before, what serves it, and
where it comes from.

A version never changes: only what serves it is asked for again while one looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from rest_framework.exceptions import APIException

from inference import figures, metrics, rights
from inference.console import acts, form, lookup, serving, trial
from inference.console.form import Sheet
from inference.console.model import history_address, named_of
from inference.console.origin import origin_of
from inference.console.trial import Tried
from inference.descriptions import Model, read_description
from inference.models import ModelServer
from inference.prediction_charts import prediction_charts
from inference.prediction_tallies import answers_over
from inference.services import aliases, pool
from inference.services.policy import policy_of
from inference.services.rows import ServerView, Status
from inference.states import meaning
from registry.compared import compare, compare_parameters
from registry.console import visible
from registry.mlflow_client import ModelVersion, RegistryUnavailable
from registry.signatures import Declared
from registry.windows import WINDOWS, window_of

PAGE = "admin:model_version"
REFRESH_SECONDS = 5
# What is counted is written less often.
TRENDS_SECONDS = 30
TRY_AGAIN_SECONDS = 2
# Sent instead of a question by the form of a version that has not said what it takes.
LOAD = "load"
# The piece of the page that asks again.
STARTING = "starting"
HISTORY_SHOWN = 10
COLUMNS_SHOWN = 200
LONGEST = 9


@dataclass(frozen=True)
class Tab:
    """One of the newest versions, beside the one that is shown."""

    number: str
    current: bool


@dataclass(frozen=True)
class Shown:
    """A column of the signature with the value that the example has."""

    name: str
    type: str
    required: bool
    example: str


def version_page(
    request: HttpRequest, context: dict[str, Any], name: str, version: str
) -> HttpResponse:
    """`context` is the frame's. An alias leads on to what it names.

    Raises Http404 where nobody knows such a version.
    """
    if not _is_number(version):
        return HttpResponseRedirect(reverse(PAGE, args=[name, _number_of(name, version)]))
    if version != str(int(version)):
        return HttpResponseRedirect(reverse(PAGE, args=[name, str(int(version))]))
    told = _page(request, name, version)
    return render(request, "console/model_version.html", {**context, **told})


def version_now(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """What serves the version, with what asks for that again."""
    _check(version)
    told = {**_names(name, version), **_serving(request, name, version), "oob": True}
    return render(request, "console/model_version_now.html", told)


def version_trends(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """How it was asked over what `over` says: a piece that the page asks for behind."""
    _check(version)
    now = timezone.now()
    window = window_of(request.GET.get("over", ""))
    points = answers_over(window.length, points=window.points, now=now, version=(name, version))
    charts = prediction_charts(points, now=now, prefix="version")
    told = {**_names(name, version), **_window(request), "trends": charts}
    return render(request, "console/model_trends.html", told)


@require_POST
def try_it(request: HttpRequest, context: dict[str, Any], name: str, version: str) -> HttpResponse:
    """Asks the version what somebody filled in, and shows the form again with the answer.

    A version without a server that is ready gets one first: the page asks again by itself then, so
    that no thread waits, and the form is left alone until there is an answer. One that has never
    said what it takes is asked nothing before it has.
    Raises PermissionDenied, and Http404 for what is no version.
    """
    if not rights.may_try(request.user):
        raise PermissionDenied
    _check(version)
    described, is_unknown = _described(name, version)
    if request.POST.get("mode") == LOAD or is_unknown:
        tried, starting = _loaded(name, version) if is_unknown else (Tried(), None)
        # Its server may have become ready meanwhile.
        described, is_unknown = _described(name, version)
        sheet = form.blank(described)
        starting = starting if is_unknown else None
    else:
        sheet = form.read(described, request.POST)
        tried, starting = _tried(name, version, sheet)
        sheet = form.with_problems(sheet, tried.fields)
    told = {
        **_trying(request, sheet),
        "tried": tried,
        "starting": starting,
        "described": described,
        "is_unknown": is_unknown,
    }
    if "HX-Request" in request.headers:
        told |= {**_names(name, version), **_serving(request, name, version), "oob": True}
        asks_again = request.headers.get("HX-Trigger") == STARTING
        if starting is None or not asks_again:
            return render(request, "console/model_tried.html", told)
        answer = render(request, "console/model_starting.html", told)
        answer["HX-Reswap"] = "none"
        return answer
    page = {**context, **_page(request, name, version), **told}
    return render(request, "console/model_version.html", page)


# -- what the page is made of ---------------------------------------------------------------------
def _page(request: HttpRequest, name: str, number: str) -> dict[str, Any]:
    known = lookup.version(name, number, beside=_beside(request))
    if known is None:
        raise Http404("There is no such version.")
    source = known.version.source if known.version else ""
    described, is_unknown = _described(name, number, source=source)
    named = named_of(name, known.model)
    return {
        "title": f"{visible(name)} {number}",
        **_names(name, number),
        "known": known,
        "tabs": _tabs(number, known.others),
        "here": [one for one in named if one.version == number],
        "history": aliases.history(name, limit=HISTORY_SHOWN),
        "history_address": history_address(name),
        "compared": compare(
            known.run.metrics if known.run else {},
            known.beside_run.metrics if known.beside_run else {},
        ),
        "parameters": compare_parameters(
            known.run.parameters if known.run else {},
            known.beside_run.parameters if known.beside_run else {},
        ),
        "origin": origin_of(known.version, known.run) if known.version else None,
        "described": described,
        "declared": _declared(described, known),
        "is_unknown": is_unknown,
        # Somebody else may have had it loaded: the form comes by itself then too.
        "starting": pool.starting_server(name, number) if is_unknown else None,
        "columns": _columns(described),
        "columns_more": max(0, len(described.columns) - COLUMNS_SHOWN),
        **_window(request),
        **_trying(request, form.blank(described)),
        **_serving(request, name, number),
        "served_at": timezone.now(),
    }


def _window(request: HttpRequest) -> dict[str, Any]:
    """What is drawn of it comes behind."""
    return {
        "window": window_of(request.GET.get("over", "")),
        "windows": WINDOWS.values(),
        "trends": None,
        "trends_seconds": TRENDS_SECONDS,
    }


def _names(name: str, number: str) -> dict[str, Any]:
    return {"name": name, "number": number}


def _serving(request: HttpRequest, name: str, number: str) -> dict[str, Any]:
    """The card of what serves it, and what refreshes it while that is alive."""
    servers = serving.servers_of(name, number)
    summed = serving.summed([server.row for server in servers])
    told = figures.figures_of((name, number))
    lane = serving.lane_of(servers)
    answers, why = serving.lane_words(lane)
    now = timezone.now()
    return {
        "servers": servers,
        "serving": summed,
        "figures": told,
        "counted_since": metrics.BEGAN,
        "rate": _rate(request.GET.get("seen", ""), told.requests, now=now),
        "seen": f"{told.requests}-{now.timestamp():.1f}",
        "lane": lane,
        "lane_answers": answers,
        "lane_why": why,
        "policy": policy_of(name),
        "can_stop": any(server.can_stop for server in servers),
        "is_stopping": any(server.row.status == Status.STOPPING for server in servers),
        "is_alive": summed.is_live,
        "refresh_seconds": REFRESH_SECONDS,
        "may_operate": rights.may_operate(request.user),
    }


def _trying(request: HttpRequest, sheet: Sheet) -> dict[str, Any]:
    address = request.build_absolute_uri("/").rstrip("/")
    return {
        "sheet": sheet,
        "may_try": rights.may_try(request.user),
        "as_python": request.POST.get("call") == "python",
        "again_seconds": TRY_AGAIN_SECONDS,
        "knows_rows": bool(sheet.body) or sheet.has_form,
        "curl": form.as_curl(address, sheet.body) if sheet.body else "",
        "python": form.as_python(address, sheet.body) if sheet.body else "",
    }


def _described(name: str, number: str, *, source: str = "") -> tuple[Model, bool]:
    """What its server said of it, and whether nobody knows yet what it takes: no server of it was
    ready to say so. Only its name is known then.

    Which are ready is asked first: each of those has said it.
    """
    is_ready = bool(pool.ready_servers(name, number))
    said = pool.description_of(name, number, source=source)
    described = read_description(name, number, said or {})
    return described, not (described.is_described or is_ready)


def _declared(described: Model, known: lookup.OneVersion) -> Declared:
    """What its server said of the signature, or else its files."""
    if described.declared != Declared.UNKNOWN or known.about is None:
        return described.declared
    return known.about.declared


def _columns(model: Model) -> Sequence[Shown]:
    """The example's values are those that the form begins with."""
    values = {one.column.name: one.value for one in form.blank(model).fields}
    return [
        Shown(column.name, column.type, column.required, values.get(column.name, ""))
        for column in model.columns[:COLUMNS_SHOWN]
    ]


def _tabs(number: str, others: Sequence[ModelVersion]) -> list[Tab]:
    numbers = [version.version for version in others]
    shown = numbers if number in numbers else [*numbers[: lookup.NEIGHBOURS - 1], number]
    return [Tab(one, one == number) for one in shown]


def _rate(seen: str, requests: int, *, now: datetime) -> float | None:
    """Requests a second since the page was last told; None where that is too short ago to say."""
    count, _, moment = seen.partition("-")
    try:
        before = datetime.fromtimestamp(float(moment), UTC)
        seconds = (now - before).total_seconds()
        more = requests - int(count)
    except (ValueError, OverflowError, OSError):
        return None
    return more / seconds if seconds >= 1 and more >= 0 else None


# -- asking the model -----------------------------------------------------------------------------
def _tried(name: str, number: str, sheet: Sheet) -> tuple[Tried, ServerView | None]:
    """An answer, or the server that starts first; neither where nothing can be asked."""
    if sheet.body is None:
        return Tried(), None
    problem, starting = _served(name, number)
    if problem or starting:
        return problem or Tried(), starting
    return trial.ask(sheet.body), None


def _loaded(name: str, number: str) -> tuple[Tried, ServerView | None]:
    """The server that starts, of a version that has not said what it takes."""
    problem, starting = _served(name, number)
    return problem or Tried(), starting


def _served(name: str, number: str) -> tuple[Tried | None, ServerView | None]:
    """Why there is no server, or the one that starts; neither where one is ready."""
    if not pool.ready_servers(name, number):
        try:
            source = acts.source_of(name, number)
        except APIException as error:
            return Tried(problem=str(error.detail)), None
        server = pool.ensure_server(name, number, source=source)
        if server.status != Status.READY:
            return _not_ready(server)
    return None, None


def _not_ready(server: ServerView) -> tuple[Tried | None, ServerView | None]:
    if server.status in (Status.STARTING, Status.STOPPING):
        return None, server
    row = ModelServer.objects.defer("description").get(pk=server.id)
    told = serving.hint_of(row)
    return Tried(problem=serving.why_of(row) or meaning(row.reason).sentence, hint=told), None


# -- addresses ------------------------------------------------------------------------------------
def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal() and len(version) <= LONGEST


def _check(version: str) -> None:
    """Raises Http404."""
    if not _is_number(version):
        raise Http404("There is no such version.")


def _number_of(name: str, selector: str) -> str:
    """Raises Http404, also while nobody can say."""
    try:
        return lookup.number_of(name, selector)
    except RegistryUnavailable as error:
        raise Http404("MLflow does not answer: nobody can say what this names now.") from error
    except APIException as error:
        raise Http404(str(error.detail)) from error


def _beside(request: HttpRequest) -> str:
    wanted = request.GET.get("beside", "")
    return str(int(wanted)) if _is_number(wanted) else ""
