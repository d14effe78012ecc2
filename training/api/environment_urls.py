"""Paths below /mlops/environments; each is served with and without a trailing slash."""

from django.urls import re_path

from training.api import environments_view as views

ENVIRONMENT = r"^environments/(?P<key>[^/]+)"

urlpatterns = [
    re_path(r"^environments/?$", views.EnvironmentListView.as_view(), name="environments"),
    re_path(ENVIRONMENT + r"/?$", views.BuiltEnvironmentView.as_view(), name="built_environment"),
    re_path(ENVIRONMENT + r"/rebuild/?$", views.RebuildView.as_view(), name="rebuild"),
]
