"""Status and readiness: true values, each dependency probed with a short time-out."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mlops_site.models import Heartbeat
from registry.features import feature_store_status
from registry.mlflow_client import RegistryCounts, RegistryUnavailable, model_registry

PROBE_SECONDS = 1.0


class StatusSerializer(serializers.Serializer):
    """The platform as it is now."""

    mlflow_tracking_uri = serializers.CharField(help_text="Where MLflow answers.")
    mlflow_available = serializers.BooleanField(help_text="MLflow answered just now.")
    feast_store_available = serializers.BooleanField(help_text="The feature store can be read.")
    registered_models = serializers.IntegerField(help_text="Models in the registry.")
    active_experiments = serializers.IntegerField(help_text="Experiments that are not deleted.")
    feature_views = serializers.IntegerField(help_text="Feature views in the feature store.")
    timestamp = serializers.DateTimeField(help_text="When this was looked up, UTC.")


class ReadySerializer(serializers.Serializer):
    """Whether the platform can work."""

    ready = serializers.BooleanField(help_text="Jobs and predictions can be taken.")
    parts = serializers.DictField(
        child=serializers.BooleanField(), help_text="Each part and whether it works."
    )


def _ready_example(mlflow: bool) -> dict[str, Any]:
    parts = {"worker": True, "supervisor": True, "mlflow": mlflow}
    return {"ready": mlflow, "parts": parts}


STATUS_EXAMPLE = {
    "mlflow_tracking_uri": "http://mlflow-service:5000",
    "mlflow_available": True,
    "feast_store_available": True,
    "registered_models": 15,
    "active_experiments": 8,
    "feature_views": 12,
    "timestamp": "2025-10-23T10:20:00Z",
}


def platform_status() -> dict[str, Any]:
    """The contract's status document; a part that is down counts as zero, never as an error."""
    available, counts = _probe_mlflow()
    features = feature_store_status()
    return {
        "mlflow_tracking_uri": settings.MLFLOW_TRACKING_URI,
        "mlflow_available": available,
        "feast_store_available": features.available,
        "registered_models": counts.registered_models,
        "active_experiments": counts.experiments,
        "feature_views": features.feature_views,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _probe_mlflow() -> tuple[bool, RegistryCounts]:
    nothing = RegistryCounts(registered_models=0, experiments=0)
    registry = model_registry()
    if not registry.available(timeout_seconds=PROBE_SECONDS):
        return False, nothing
    try:
        return True, registry.counts()
    except RegistryUnavailable:
        return False, nothing


class StatusView(APIView):
    @extend_schema(
        operation_id="platform_status",
        summary="Platform status",
        description=(
            "What works and how much there is. A part that does not answer counts as zero; "
            "the answer is always 200."
        ),
        tags=["System"],
        responses={200: OpenApiResponse(StatusSerializer, description="Request successful")},
        examples=[
            OpenApiExample("Status", value=STATUS_EXAMPLE, response_only=True, status_codes=["200"])
        ],
    )
    def get(self, request: Request) -> Response:
        return Response(platform_status())


class ReadyView(APIView):
    @extend_schema(
        operation_id="platform_ready",
        summary="Readiness of every process",
        description="For load balancers and monitoring: 200 when every part works, else 503.",
        tags=["System"],
        responses={
            200: OpenApiResponse(ReadySerializer, description="Every part works"),
            503: OpenApiResponse(ReadySerializer, description="A part does not work"),
        },
        examples=[
            OpenApiExample(
                "Ready", value=_ready_example(True), response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "MLflow is away",
                value=_ready_example(False),
                response_only=True,
                status_codes=["503"],
            ),
        ],
    )
    def get(self, request: Request) -> Response:
        parts = {
            "worker": Heartbeat.is_fresh("worker"),
            "supervisor": Heartbeat.is_fresh("supervisor"),
            "mlflow": model_registry().available(timeout_seconds=PROBE_SECONDS),
        }
        ready = all(parts.values())
        return Response({"ready": ready, "parts": parts}, status=200 if ready else 503)
