"""The pages of features: what is in the feature store, how fresh it is, and whose values it has.

All of it is what a worker read last, kept as a row: Feast is never imported here. While something
is under way the page asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from rest_framework.exceptions import APIException

from mlops_site.console import feature_lookup
from registry.console import age
from registry.feature_store import services
from registry.feature_store.description import (
    FRESHNESS_WORDS,
    Description,
    Freshness,
    Kind,
    Service,
    View,
)
from registry.models import Materialization
from registry.rights import may_look_up, may_materialize, may_see_features

REFRESH_SECONDS = 2
FEATURES_NAMED = 4
SHAPES = {
    Freshness.FRESH: "completed",
    Freshness.STALE: "warn",
    Freshness.EMPTY: "warn",
    Freshness.COMPUTED: "todo",
    Freshness.OFF: "cancelled",
}
KINDS = {
    Kind.BATCH: "filled from a batch source",
    Kind.PUSHED: "pushed to, and filled from a batch source",
    Kind.STREAM: "filled from a stream",
    Kind.ON_DEMAND: "computed on demand",
    Kind.LABEL: "labels, which are pushed",
}
ORDER_SHAPES = {"waiting": "queued"}
State = Materialization.State


@dataclass(frozen=True)
class Row:
    """A feature view as a list shows it."""

    view: View
    freshness: Freshness
    services: Sequence[Service]

    @property
    def shape(self) -> str:
        return SHAPES[self.freshness]

    @property
    def words(self) -> str:
        return FRESHNESS_WORDS[self.freshness].capitalize().replace("ttl", "TTL")

    @property
    def kind(self) -> str:
        return KINDS[self.view.kind]

    @property
    def named(self) -> str:
        """The first of its features."""
        names = [feature.name for feature in self.view.features]
        more = len(names) - FEATURES_NAMED
        return ", ".join(names[:FEATURES_NAMED]) + (f" and {more} more" if more > 0 else "")

    @property
    def source(self) -> str:
        return ", ".join(source.name for source in self.view.sources)

    @property
    def ttl(self) -> str:
        return age(self.view.ttl_seconds) if self.view.ttl_seconds else "none"


@dataclass(frozen=True)
class Order:
    """A materialisation as the pages show it."""

    row: Materialization

    @property
    def shape(self) -> str:
        return ORDER_SHAPES.get(self.row.state, self.row.state)

    @property
    def seconds(self) -> float | None:
        began, ended = self.row.started_at, self.row.ended_at
        return (ended - began).total_seconds() if began and ended else None

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [one for one in self.row.outcome if one["detail"]]

    @property
    def progress(self) -> str:
        """Of one that runs."""
        return f"{len(self.row.outcome)} of {len(self.row.feature_views)} feature views"


@dataclass(frozen=True)
class Step:
    """What would happen to one feature view; nothing when it does not `act`."""

    name: str
    says: str
    acts: bool


@dataclass(frozen=True)
class Plan:
    """The question that is asked before anything is materialised."""

    steps: Sequence[Step]

    @property
    def count(self) -> int:
        return sum(step.acts for step in self.steps)

    @property
    def what(self) -> str:
        return f"Materialise {self.count} feature view{'' if self.count == 1 else 's'}"


def urls(site: Any) -> list[URLPattern]:
    """`site` wraps each page into what a person must have to open the console."""

    def framed(view: Any) -> Any:
        def within(request: HttpRequest, **named: str) -> HttpResponse:
            _check_may_see(request)
            answer: HttpResponse = view(request, site.each_context(request), **named)
            return answer

        return site.admin_view(within)

    return [
        path("features/", framed(list_page), name="features"),
        path("features/now/", framed(now), name="features_now"),
        path("features/ask/", framed(ask), name="features_ask"),
        path("features/act/", framed(act), name="features_act"),
        path("features/read/", framed(read_anew), name="features_read"),
        path("features/views/<str:name>/", framed(view_page), name="feature_view"),
        path("features/services/<str:name>/", framed(service_page), name="feature_service"),
    ]


def list_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """Everything that there is; `text` finds views by their own name, or that of what they have."""
    look, moment = services.look(), timezone.now()
    text = request.GET.get("text", "").strip()
    rows = _rows(look.description, moment) if look.description else []
    told = {
        **_common(request, look),
        "title": "Features",
        "text": text,
        "rows": [row for row in rows if _fits(row, text)],
        "stale": [row for row in rows if row.freshness in (Freshness.STALE, Freshness.EMPTY)],
        "fillable": look.description.fillable if look.description else [],
        **_orders(),
        "repository_variable": "MLOPS_FEAST_REPO",
    }
    return render(request, "console/features.html", {**context, **told})


def view_page(request: HttpRequest, context: dict[str, Any], name: str) -> HttpResponse:
    """One feature view. Raises Http404 where there is none of this name."""
    look = services.look()
    view = look.description.views.get(name) if look.description else None
    if look.description is None or view is None:
        raise Http404("There is no such feature view.")
    told = {
        **_common(request, look),
        "title": f"{view.name} · feature view",
        "row": _row(view, look.description, timezone.now()),
        "why_not": services.why_not_fillable(view, view.name),
        **_lookup(request, view, look.description),
        **_orders(view.name),
    }
    return render(request, "console/feature_view.html", {**context, **told})


def service_page(request: HttpRequest, context: dict[str, Any], name: str) -> HttpResponse:
    """One feature service. Raises Http404 where there is none of this name."""
    look = services.look()
    service = look.description.services.get(name) if look.description else None
    if look.description is None or service is None:
        raise Http404("There is no such feature service.")
    types = {
        (view.name, feature.name): feature.type
        for view in look.description.views.values()
        for feature in view.features
    }
    features = [
        {"part": part, "name": feature, "type": types.get((part.view, feature), "")}
        for part in service.parts
        for feature in part.features
    ]
    told = {
        **_common(request, look),
        "title": f"{service.name} · feature service",
        "service": service,
        "features": features,
        **_lookup(request, service, look.description),
    }
    return render(request, "console/feature_service.html", {**context, **told})


def now(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What is under way. Of a store that was read anew the page tells, but for the first time,
    when it has nothing that could move: then it is loaded again."""
    look, seen = services.look(), request.GET.get("seen", "")
    if not seen and (look.description or look.error):
        return HttpResponse(headers={"HX-Refresh": "true"})
    told = {
        **_common(request, look),
        **_orders(request.GET.get("view", "")),
        "seen": seen,
        "is_newer": seen != _seen(look),
        "has_contents": bool(seen),
        "oob": True,
    }
    return render(request, "console/features_now.html", told)


@require_POST
def ask(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What would be materialised, and the button that asks for it; nothing is done."""
    _check_may_materialize(request)
    look = services.look()
    plan = _plan(request.POST.getlist("feature_view"), look.description)
    told = {
        "plan": plan,
        "title": plan.what,
        "serves_meanwhile": look.description is not None and look.description.serves_meanwhile,
        "minutes": round(settings.MATERIALIZE_SECONDS / 60),
        "back": _back(request),
        "page": request.POST.get("page", ""),
    }
    inside = "HX-Request" in request.headers
    template = "console/features_ask.html" if inside else "console/features_ask_page.html"
    return render(request, template, {**context, **told})


@require_POST
def act(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """Asks for it by the service that the API calls, and goes back."""
    _check_may_materialize(request)
    names = request.POST.getlist("feature_view")
    if not names:
        messages.warning(request, "No feature view was selected.")
        return HttpResponseRedirect(_back(request))
    try:
        made = services.ask_materialization(names, actor=request.user.get_username())
    except APIException as refused:
        messages.warning(request, str(refused.detail))
    else:
        count = len(made.feature_views)
        noun = "feature view" if count == 1 else "feature views"
        messages.success(request, f"{count} {noun} will be materialised: order {made.pk}.")
    return HttpResponseRedirect(_back(request))


@require_POST
def read_anew(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """For a store whose registry does not say when it changed."""
    _check_may_materialize(request)
    services.ask_description()
    messages.success(request, "A worker reads the feature store anew.")
    return HttpResponseRedirect(reverse("admin:features"))


def _check_may_see(request: HttpRequest) -> None:
    if not may_see_features(request.user):
        raise PermissionDenied


def _check_may_materialize(request: HttpRequest) -> None:
    if not may_materialize(request.user):
        raise PermissionDenied


def _back(request: HttpRequest) -> str:
    """The page of the view that it was asked for on, or the list."""
    name = request.POST.get("page", "")
    return reverse("admin:feature_view", args=[name]) if _is_segment(name) else _list()


def _is_segment(name: str) -> bool:
    """Whether it can be a part of an address of ours."""
    return bool(name) and "/" not in name


def _list() -> str:
    return reverse("admin:features")


def _common(request: HttpRequest, look: services.Look) -> dict[str, Any]:
    return {
        "look": look,
        "known": look.description,
        "seen": _seen(look),
        "may_materialize": may_materialize(request.user),
        "may_look_up": may_look_up(request.user),
        "refresh_seconds": REFRESH_SECONDS,
        "served_at": timezone.now(),
    }


def _seen(look: services.Look) -> str:
    """Which description a page shows; empty while there is none."""
    return look.described_at.isoformat() if look.described_at else ""


def _orders(view: str = "") -> dict[str, Any]:
    """The newest materialisations; those that one view was part of."""
    found = services.newest_materializations()
    orders = [Order(row) for row in found if not view or view in row.feature_views]
    return {
        "orders": orders,
        "view_name": view,
        "is_under_way": any(order.row.is_open for order in orders),
    }


def _lookup(request: HttpRequest, thing: View | Service, known: Description) -> dict[str, Any]:
    if not may_look_up(request.user):
        return {}
    return {"form": feature_lookup.form_of(thing, request.GET.dict(), known=known)}


def _rows(known: Description, moment: datetime) -> list[Row]:
    return [_row(view, known, moment) for view in known.views.values()]


def _row(view: View, known: Description, moment: datetime) -> Row:
    return Row(view, view.freshness(moment), known.services_with(view.name))


def _fits(row: Row, text: str) -> bool:
    names = [
        row.view.name,
        *row.view.entities,
        *(key.name for key in row.view.keys),
        *(feature.name for feature in row.view.features),
        *(source.name for source in row.view.sources),
    ]
    return any(text.lower() in name.lower() for name in names)


def _plan(names: Sequence[str], known: Description | None) -> Plan:
    return Plan([_step(name, known) for name in dict.fromkeys(names)])


def _step(name: str, known: Description | None) -> Step:
    view = known.views.get(name) if known else None
    why_not = services.why_not_fillable(view, name)
    if view is None or why_not:
        return Step(name, f"stays as it is. {why_not}", acts=False)
    begins = view.filled_until
    since = f"from {begins:%Y-%m-%d %H:%M} UTC" if begins else "from the beginning of its TTL"
    sources = [source.name for source in view.sources if source.kind != "push"]
    return Step(name, f"gets the events {since} until now, of {', '.join(sources)}", acts=True)
