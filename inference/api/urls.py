"""The paths of predictions and model servers, with or without a trailing slash."""

from django.urls import re_path

from inference.api.alias_views import AliasListView, AliasView, RollbackView
from inference.api.batch_views import (
    BatchCancelView,
    BatchListView,
    BatchPredictionsView,
    BatchView,
)
from inference.api.model_views import InvocationsView, OpenApiView, SchemaView
from inference.api.pool_views import (
    ServerListView,
    ServerReasonsView,
    ServingView,
    VersionServerView,
)
from inference.api.request_views import RequestsView
from inference.api.views import InferenceView

MODEL = r"^models/(?P<model_name>[^/]+)"
BATCH = r"^inference/batch/(?P<batch_id>[^/]+)"
VERSIONED = rf"{MODEL}/versions/(?P<version>[^/]+)"
urlpatterns = [
    re_path(r"^inference/?$", InferenceView.as_view(), name="inference"),
    re_path(r"^inference/batch/?$", BatchListView.as_view(), name="batches"),
    re_path(rf"{BATCH}/?$", BatchView.as_view(), name="batch"),
    re_path(rf"{BATCH}/cancel/?$", BatchCancelView.as_view(), name="batch-cancel"),
    re_path(rf"{BATCH}/predictions/?$", BatchPredictionsView.as_view(), name="batch-predictions"),
    re_path(r"^inference/servers/?$", ServerListView.as_view(), name="servers"),
    re_path(r"^inference/reasons/?$", ServerReasonsView.as_view(), name="server-reasons"),
    re_path(rf"{MODEL}/serving/?$", ServingView.as_view(), name="serving"),
    re_path(rf"{MODEL}/requests/?$", RequestsView.as_view(), name="requests"),
    re_path(rf"{MODEL}/aliases/?$", AliasListView.as_view(), name="aliases"),
    re_path(rf"{MODEL}/aliases/(?P<alias>[^/]+)/?$", AliasView.as_view(), name="alias"),
    re_path(
        rf"{MODEL}/aliases/(?P<alias>[^/]+)/rollback/?$", RollbackView.as_view(), name="rollback"
    ),
    re_path(rf"{VERSIONED}/server/?$", VersionServerView.as_view(), name="version-server"),
    re_path(rf"{VERSIONED}/schema/?$", SchemaView.as_view(), name="model-schema"),
    re_path(rf"{VERSIONED}/openapi\.json/?$", OpenApiView.as_view(), name="model-openapi"),
    re_path(rf"{VERSIONED}/invocations/?$", InvocationsView.as_view(), name="invocations"),
]
