"""Status and readiness: true values, each dependency probed with a short time-out."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mlops_site.admission_views import HoldsSerializer, holds_document
from mlops_site.health import (
    PROBE_SECONDS,
    admission_now,
    database_kind,
    database_works,
    known,
    network_part,
    parts_of_platform,
    sandbox_part,
)
from registry.features import feature_store_status
from registry.mlflow_client import RegistryCounts, RegistryUnavailable, model_registry


class PartSerializer(serializers.Serializer):
    works = serializers.BooleanField(help_text="Whether the part works.")
    age_seconds = serializers.FloatField(
        allow_null=True,
        help_text="How long ago it last showed that; null for what is asked just now, and for "
        "what never did.",
    )
    detail = serializers.CharField(help_text="What is wrong, in words; empty when nothing is.")


class StatusSerializer(serializers.Serializer):
    """The platform as it is now."""

    mlflow_tracking_uri = serializers.CharField(help_text="Where MLflow answers.")
    mlflow_available = serializers.BooleanField(help_text="MLflow answered just now.")
    feast_store_available = serializers.BooleanField(help_text="The feature store can be read.")
    registered_models = serializers.IntegerField(help_text="Models in the registry.")
    active_experiments = serializers.IntegerField(help_text="Experiments that are not deleted.")
    feature_views = serializers.IntegerField(help_text="Feature views in the feature store.")
    database = serializers.CharField(help_text="Its kind: `SQLite` or `PostgreSQL`.")
    database_available = serializers.BooleanField(help_text="The database answered just now.")
    network = PartSerializer(
        help_text="Whether what jobs may reach is held by the host's firewall, and since when "
        "that is known."
    )
    sandbox = PartSerializer(
        help_text="What the operator's `manage.py sandbox check` found on this machine."
    )
    admission = HoldsSerializer(
        allow_null=True, help_text="Whether what is accepted is started; null: nobody can say."
    )
    timestamp = serializers.DateTimeField(help_text="When this was looked up, UTC.")


class ReadySerializer(serializers.Serializer):
    """Whether the platform can work."""

    ready = serializers.BooleanField(help_text="Jobs and predictions can be taken.")
    database = serializers.CharField(help_text="Its kind: `SQLite` or `PostgreSQL`.")
    parts = serializers.DictField(
        child=serializers.BooleanField(), help_text="Each part and whether it works."
    )
    details = serializers.DictField(
        child=PartSerializer(), help_text="Each part, how long ago it worked, and what is wrong."
    )
    admission = HoldsSerializer(
        allow_null=True,
        help_text="Whether what is accepted is started; a platform that pauses is ready. Null: "
        "nobody can say.",
    )


ADMITS = {"paused": None, "draining": None}
STATUS_EXAMPLE = {
    "mlflow_tracking_uri": "http://mlflow-service:5000",
    "mlflow_available": True,
    "feast_store_available": True,
    "registered_models": 15,
    "active_experiments": 8,
    "feature_views": 12,
    "database": "SQLite",
    "database_available": True,
    "network": {"works": True, "age_seconds": 312.0, "detail": ""},
    "sandbox": {"works": True, "age_seconds": 86400.0, "detail": ""},
    "admission": ADMITS,
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
        "database": database_kind(),
        "database_available": database_works(),
        "network": asdict(known(network_part)),
        "sandbox": asdict(known(sandbox_part)),
        "admission": holds_document(admission_now()),
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


WORKING = {
    "database": {"works": True, "age_seconds": None, "detail": ""},
    "worker": {"works": True, "age_seconds": 2.1, "detail": ""},
    "supervisor": {"works": True, "age_seconds": 3.4, "detail": ""},
    "queue": {"works": True, "age_seconds": 3.4, "detail": ""},
    "engine": {"works": True, "age_seconds": 4.0, "detail": ""},
    "mlflow": {"works": True, "age_seconds": None, "detail": ""},
    "network": {"works": True, "age_seconds": 312.0, "detail": ""},
}
READY: dict[str, Any] = {
    "ready": True,
    "database": "PostgreSQL",
    "parts": dict.fromkeys(WORKING, True),
    "details": WORKING,
    "admission": ADMITS,
}
NOT_READY = {
    "ready": False,
    "database": "PostgreSQL",
    "parts": {**READY["parts"], "engine": False},
    "details": {
        **WORKING,
        "engine": {
            "works": False,
            "age_seconds": 94.0,
            "detail": "Docker was last measured 94 s ago: it does not answer.",
        },
    },
    "admission": ADMITS,
}


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
            OpenApiExample("Ready", value=READY, response_only=True, status_codes=["200"]),
            OpenApiExample(
                "Docker is away", value=NOT_READY, response_only=True, status_codes=["503"]
            ),
        ],
    )
    def get(self, request: Request) -> Response:
        parts = parts_of_platform()
        ready = all(part.works for part in parts.values())
        body = {
            "ready": ready,
            "database": database_kind(),
            "parts": {name: part.works for name, part in parts.items()},
            "details": {name: asdict(part) for name, part in parts.items()},
            "admission": holds_document(admission_now()),
        }
        return Response(body, status=200 if ready else 503)
