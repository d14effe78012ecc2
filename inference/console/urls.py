"""The addresses of models in the console. A model's name may hold whatever MLflow lets it."""

from collections.abc import Callable
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from inference import rights
from inference.console import model, models, version, views

View = Callable[..., HttpResponse]


def paths(site: AdminSite) -> list[URLPattern]:
    """Below the site's own path; each page is for who may see models."""

    def framed(view: View) -> View:
        def shown(request: HttpRequest, **named: str) -> HttpResponse:
            _check(request)
            return view(request, _frame(site, request), **named)

        return site.admin_view(shown)

    def piece(view: View) -> View:
        def shown(request: HttpRequest, **named: str) -> HttpResponse:
            _check(request)
            return view(request, **named)

        return site.admin_view(shown)

    one, versioned = "models/<path:name>/", "models/<path:name>/versions/<str:version>/"
    return [
        path("models/", framed(models.models_page), name="models"),
        path(f"{versioned}now/", piece(version.version_now), name="model_version_now"),
        path(f"{versioned}trends/", piece(version.version_trends), name="model_version_trends"),
        path(f"{versioned}try/", framed(version.try_it), name="model_try"),
        path(versioned, framed(version.version_page), name="model_version"),
        path(f"{one}ask/", framed(views.ask), name="model_ask"),
        path(f"{one}act/", framed(views.act), name="model_act"),
        path(one, framed(model.model_page), name="model"),
    ]


def _check(request: HttpRequest) -> None:
    if not rights.may_see(request.user):
        raise PermissionDenied


def _frame(site: AdminSite, request: HttpRequest) -> dict[str, Any]:
    """What is refreshed inside of a page needs none."""
    return {} if "HX-Request" in request.headers else site.each_context(request)
