"""The pages around the API: the way in, and the documentation in its three forms."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import (
    SpectacularJSONAPIView,
    SpectacularRedocView,
    SpectacularSwaggerSplitView,
)

from mlops_site.problems import method_not_allowed

READ = ["get", "head"]


@csrf_exempt
def home(request: HttpRequest) -> HttpResponse:
    """Whoever opens the bare address wants to know what is here."""
    if request.method not in ("GET", "HEAD"):
        return method_not_allowed(request, ["GET", "HEAD"])
    return redirect("docs")


def platform_links(request: HttpRequest) -> dict[str, str]:
    """Where the admin's header leads to: a context processor."""
    return {"mlflow_address": settings.MLFLOW_TRACKING_URI}


class PlainJsonRenderer(OpenApiJsonRenderer):
    """A browser shows this type, and would store the schema's own type in a file."""

    media_type = "application/json"


class SchemaView(SpectacularJSONAPIView):
    http_method_names = READ
    renderer_classes = [PlainJsonRenderer]


class SwaggerView(SpectacularSwaggerSplitView):
    http_method_names = READ


class RedocView(SpectacularRedocView):
    http_method_names = READ
