"""The HTTP of model servers: what runs and why not, and how many a model may have."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.actor import actor_of
from inference.batch.states import every_meaning
from inference.models import ModelServer
from inference.services import pool
from inference.services.policy import Policy, policy_of, set_policy
from inference.states import MEANINGS, Fault, Meaning, Reason
from registry.mlflow_client import model_registry

NAME = OpenApiParameter("model_name", str, OpenApiParameter.PATH, description="The model's name.")
VERSION = OpenApiParameter("version", str, OpenApiParameter.PATH, description="A version's number.")
SERVERS_MOST = 64
MEMORY_LEAST_MB = 64


class ServerSerializer(serializers.Serializer):
    """One server of a model version."""

    model_name = serializers.CharField(help_text="The model.")
    version = serializers.CharField(help_text="Its version.")
    replica = serializers.IntegerField(help_text="Its number among the servers of the version.")
    status = serializers.ChoiceField(
        choices=ModelServer.Status.choices, help_text="What the server is."
    )
    phase = serializers.CharField(help_text="What it is doing while it starts.")
    reason = serializers.CharField(
        help_text="Why it does not run, as `GET /mlops/inference/reasons` lists it; else empty."
    )
    error = serializers.CharField(help_text="The reason in a sentence.")
    hint = serializers.CharField(help_text="What to do about it.")
    log_tail = serializers.CharField(help_text="The last lines it printed before it ended.")
    memory_mb = serializers.IntegerField(help_text="The memory it may use.")
    cpus = serializers.FloatField(help_text="The CPUs it may use.")
    memory_bytes = serializers.IntegerField(
        allow_null=True, help_text="The memory it uses, as last measured."
    )
    crashes = serializers.IntegerField(help_text="How often in a row it ended on its own.")
    not_before = serializers.DateTimeField(
        allow_null=True, help_text="Until then it is not started again."
    )
    ready_at = serializers.DateTimeField(allow_null=True, help_text="Since when it answers.")
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="When it last answered.")


class ServersSerializer(serializers.Serializer):
    """Servers, by model, version and number."""

    servers = ServerSerializer(many=True, help_text="Also those that were stopped.")


class ServingSerializer(serializers.Serializer):
    """How a model's versions are served. What is left out becomes the default again."""

    min_servers = serializers.IntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=SERVERS_MOST,
        help_text="So many servers run of the newest version, and of each that an alias names, "
        "whether or not anybody asks.",
    )
    max_servers = serializers.IntegerField(
        required=False,
        default=1,
        min_value=1,
        max_value=SERVERS_MOST,
        help_text="So many servers of a version may run; one more starts while all are busy.",
    )
    pinned = serializers.BooleanField(
        required=False,
        default=False,
        help_text="A running server never stops for being idle, nor to make room for another.",
    )
    idle_seconds = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=30 * 24 * 3600,
        help_text="A server that nobody asked for so long stops; 0: never.",
    )
    memory_mb = serializers.IntegerField(
        required=False, min_value=MEMORY_LEAST_MB, help_text="The memory of each server."
    )
    cpus = serializers.FloatField(
        required=False, min_value=0.1, max_value=64, help_text="The CPUs of each server."
    )

    def validate_memory_mb(self, value: int) -> int:
        if value > settings.SERVERS_MEMORY_MB:
            most = settings.SERVERS_MEMORY_MB
            raise serializers.ValidationError(f"All servers together may have {most} MB.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["min_servers"] > attrs["max_servers"]:
            told = f"min_servers is {attrs['min_servers']}: expected at least as many here."
            raise serializers.ValidationError({"max_servers": told})
        return attrs


class ServerReasonSerializer(serializers.Serializer):
    """One way in which a server does not run."""

    reason = serializers.ChoiceField(choices=Reason.choices, help_text="As servers name it.")
    fault = serializers.ChoiceField(choices=list(Fault), help_text="Whose it is to mend.")
    passing = serializers.BooleanField(help_text="It may be over in a few seconds.")
    sentence = serializers.CharField(help_text="What happened.")
    hint = serializers.CharField(help_text="What to do about it; may be empty.")


class BatchReasonSerializer(serializers.Serializer):
    """One way in which a batch prediction ends."""

    reason = serializers.CharField(help_text="As batches name it.")
    fault = serializers.CharField(help_text="Whose it is to mend: nobody, model or platform.")
    passing = serializers.BooleanField(help_text="The platform tries it again by itself.")
    sentence = serializers.CharField(help_text="What happened.")
    hint = serializers.CharField(help_text="What to do about it; may be empty.")


class ServerReasonsSerializer(serializers.Serializer):
    """Every way in which a server does not run."""

    reasons = ServerReasonSerializer(many=True, help_text="In no special order.")
    batch_reasons = BatchReasonSerializer(many=True, help_text="Why a batch prediction ends.")


SERVING_EXAMPLE = {
    "min_servers": 1,
    "max_servers": 2,
    "pinned": False,
    "idle_seconds": 3600,
    "memory_mb": 1024,
    "cpus": 1.0,
}
SERVER_EXAMPLE = {
    "servers": [
        {
            "model_name": "churn_predictor",
            "version": "1",
            "replica": 1,
            "status": "failed",
            "phase": "",
            "reason": "wrong_environment",
            "error": "The model cannot be loaded: ModuleNotFoundError: No module named 'xgboost'",
            "hint": "Train it again with that package in `requirements`.",
            "log_tail": "model_server: ModuleNotFoundError: No module named 'xgboost'",
            "memory_mb": 1024,
            "cpus": 1.0,
            "memory_bytes": None,
            "crashes": 0,
            "not_before": None,
            "ready_at": None,
            "last_used_at": "2025-10-23T10:10:00Z",
        }
    ]
}


class ServerListView(APIView):
    problem_codes: tuple[str, ...] = ()

    @extend_schema(
        operation_id="list_model_servers",
        summary="List the model servers",
        description="Every model server with its status, and why it does not run.",
        tags=["Serving"],
        responses={200: OpenApiResponse(ServersSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Servers", value=SERVER_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request) -> Response:
        return Response({"servers": [asdict(server) for server in pool.shown()]})


class VersionServerView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="get_model_servers",
        summary="Look at the servers of a version",
        description="Each server of the version; empty when nobody asked for it yet.",
        tags=["Serving"],
        parameters=[NAME, VERSION],
        responses={200: OpenApiResponse(ServersSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Servers", value=SERVER_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request, model_name: str, version: str) -> Response:
        servers = pool.shown(model_name, version)
        if not servers:
            model_registry().version(model_name, version)
        return Response({"servers": [asdict(server) for server in servers]})


class ServingView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="get_serving",
        summary="Look at how a model is served",
        description="The number and limits of the servers that each version may have.",
        tags=["Serving"],
        parameters=[NAME],
        responses={200: OpenApiResponse(ServingSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Serving", value=SERVING_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request, model_name: str) -> Response:
        model_registry().model(model_name)
        return Response(asdict(policy_of(model_name)))

    @extend_schema(
        operation_id="set_serving",
        summary="Set how a model is served",
        description=(
            "What is left out becomes the platform's default again. Servers whose limits differ "
            "are replaced one by one, each after its successor is ready."
        ),
        tags=["Serving"],
        parameters=[NAME],
        request=ServingSerializer,
        responses={200: OpenApiResponse(ServingSerializer, description="Request successful")},
        examples=[OpenApiExample("Serving", value=SERVING_EXAMPLE)],
    )
    def put(self, request: Request, model_name: str) -> Response:
        asked = ServingSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        model_registry().model(model_name)
        data = asked.validated_data
        policy = Policy(
            min_servers=data["min_servers"],
            max_servers=data["max_servers"],
            pinned=data["pinned"],
            idle_seconds=data.get("idle_seconds", settings.SERVER_IDLE_SECONDS),
            memory_mb=data.get("memory_mb", settings.SERVER_MEMORY_MB),
            cpus=data.get("cpus", settings.SERVER_CPUS),
        )
        return Response(asdict(set_policy(model_name, policy, actor=actor_of(request))))


class ServerReasonsView(APIView):
    problem_codes: tuple[str, ...] = ()

    @extend_schema(
        operation_id="list_server_reasons",
        summary="List why a server may not run",
        description="Every reason with whose fault it is, and what to do about it.",
        tags=["Serving"],
        responses={200: OpenApiResponse(ServerReasonsSerializer, description="Request successful")},
    )
    def get(self, request: Request) -> Response:
        servers = {reason.value: known for reason, known in MEANINGS.items()}
        return Response({"reasons": _table(servers), "batch_reasons": _table(every_meaning())})


def _table(meanings: Mapping[str, Meaning]) -> list[dict[str, Any]]:
    return [
        {
            "reason": reason,
            "fault": known.fault.value,
            "passing": known.passing,
            "sentence": known.sentence,
            "hint": known.hint,
        }
        for reason, known in meanings.items()
    ]
