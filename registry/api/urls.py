"""Registry paths below /mlops/; each is served with and without a trailing slash."""

from django.urls import re_path

from registry.api import views

urlpatterns = [
    re_path(r"^registry/?$", views.RegisterView.as_view(), name="register"),
    re_path(r"^models/?$", views.ModelListView.as_view(), name="models"),
    re_path(r"^models/(?P<model_name>[^/]+)/?$", views.ModelView.as_view(), name="model"),
]
