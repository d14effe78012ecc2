"""Every path of the platform; a trailing slash is accepted everywhere in the API."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import (
    SpectacularJSONAPIView,
    SpectacularRedocView,
    SpectacularSwaggerSplitView,
)

from mlops_site import views

urlpatterns = [
    path("", RedirectView.as_view(url="/docs"), name="home"),
    path("admin/", admin.site.urls),
    re_path(r"^mlops/status/?$", views.StatusView.as_view(), name="status"),
    re_path(r"^mlops/ready/?$", views.ReadyView.as_view(), name="ready"),
    path("mlops/training/", include("training.api.urls")),
    path("mlops/", include("registry.api.urls")),
    path("mlops/", include("inference.api.urls")),
    re_path(r"^openapi\.json$", SpectacularJSONAPIView.as_view(), name="schema"),
    re_path(r"^docs/?$", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    re_path(r"^redoc/?$", SpectacularRedocView.as_view(url_name="schema"), name="redoc"),
]
handler404 = "mlops_site.problems.not_found"
handler500 = "mlops_site.problems.server_error"
handler400 = "mlops_site.problems.bad_request"
