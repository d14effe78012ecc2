"""Every path of the platform; a trailing slash is accepted everywhere but in static files."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from mlops_site import pages, views
from mlops_site.admission_views import AdmissionView

urlpatterns = [
    path("", pages.home, name="home"),
    path("admin", RedirectView.as_view(pattern_name="admin:index", query_string=True)),
    path("admin/", admin.site.urls),
    path("favicon.ico", RedirectView.as_view(url=static("mlops_site/favicon.svg"))),
    re_path(r"^mlops/status/?$", views.StatusView.as_view(), name="status"),
    re_path(r"^mlops/ready/?$", views.ReadyView.as_view(), name="ready"),
    re_path(r"^mlops/admission/?$", AdmissionView.as_view(), name="admission"),
    path("mlops/training/", include("training.api.urls")),
    path("mlops/", include("training.api.environment_urls")),
    path("mlops/", include("registry.api.urls")),
    path("mlops/", include("inference.api.urls")),
    re_path(r"^openapi\.json/?$", pages.SchemaView.as_view(), name="schema"),
    re_path(r"^docs/?$", pages.SwaggerView.as_view(url_name="schema"), name="docs"),
    re_path(r"^redoc/?$", pages.RedocView.as_view(url_name="schema"), name="redoc"),
]
handler400 = "mlops_site.problems.bad_request"
handler403 = "mlops_site.problems.forbidden"
handler404 = "mlops_site.problems.not_found"
handler500 = "mlops_site.problems.server_error"
