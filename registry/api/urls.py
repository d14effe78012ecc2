"""Registry paths below /mlops/; each is served with and without a trailing slash."""

from django.urls import re_path

from registry.api import feature_views, views

urlpatterns = [
    re_path(r"^registry/?$", views.RegisterView.as_view(), name="register"),
    re_path(r"^models/?$", views.ModelListView.as_view(), name="models"),
    re_path(r"^models/(?P<model_name>[^/]+)/?$", views.ModelView.as_view(), name="model"),
    re_path(r"^features/?$", feature_views.FeatureStoreView.as_view(), name="features"),
    re_path(
        r"^features/materialize/?$", feature_views.MaterializeView.as_view(), name="materialize"
    ),
    re_path(
        r"^features/materializations/?$",
        feature_views.MaterializationListView.as_view(),
        name="materializations",
    ),
    re_path(
        r"^features/materializations/(?P<number>[0-9]{1,18})/?$",
        feature_views.MaterializationView.as_view(),
        name="materialization",
    ),
]
