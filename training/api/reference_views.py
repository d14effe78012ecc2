"""`GET /mlops/training/reasons` and `GET /mlops/training/limits`: the platform's own rules."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from training.api.client import client_of
from training.api.serializers import WAITING_FOR
from training.reference import Limit, limits_now, reasons
from training.states import ENDINGS, Ending, Fault, Network, Reason, Status


class ReasonSerializer(serializers.Serializer):
    """One way in which a job can end."""

    reason = serializers.ChoiceField(choices=Reason.choices, help_text="As jobs name it.")
    status = serializers.ChoiceField(
        choices=Status.choices, help_text="The status that it leads to."
    )
    fault = serializers.ChoiceField(choices=list(Fault), help_text="Whose it is to mend.")
    retryable = serializers.BooleanField(
        help_text="The same job may end differently when it is run again."
    )
    retried_automatically = serializers.BooleanField(
        help_text="The platform runs it again by itself, as often as the limit `attempts` says."
    )
    sentence = serializers.CharField(help_text="What happened.")
    hint = serializers.CharField(help_text="What to do about it; empty when nothing is to do.")


class ReasonsSerializer(serializers.Serializer):
    """Every way in which a job can end."""

    reasons = ReasonSerializer(many=True, help_text="In no special order.")


class LimitSerializer(serializers.Serializer):
    """One limit."""

    default = serializers.FloatField(
        allow_null=True, help_text="What holds where nothing is asked for; null: nothing does."
    )
    minimum = serializers.FloatField(allow_null=True, help_text="The least there can be.")
    maximum = serializers.FloatField(
        allow_null=True, help_text="The most there can be; null: no bound of its own."
    )
    used = serializers.FloatField(
        allow_null=True, help_text="How much of it is used now; null where that cannot be told."
    )
    unit = serializers.CharField(help_text="What the numbers count.")


class NetworkLimitSerializer(serializers.Serializer):
    """What a job may reach beside MLflow: from `none` to `internet`."""

    default = serializers.ChoiceField(
        choices=Network.choices, help_text="What holds where nothing is asked for."
    )
    maximum = serializers.ChoiceField(choices=Network.choices, help_text="The most there can be.")


class PythonLimitSerializer(serializers.Serializer):
    """What the operator's base images offer."""

    default = serializers.CharField(help_text="What holds where nothing is asked for.")
    offered = serializers.ListField(
        child=serializers.CharField(), help_text="What `python_version` of an upload may be."
    )


class LimitsSerializer(serializers.Serializer):
    """Every limit, by its name."""

    job = serializers.DictField(child=LimitSerializer(), help_text="Of one job.")
    upload = serializers.DictField(child=LimitSerializer(), help_text="Of one upload.")
    platform = serializers.DictField(
        child=LimitSerializer(),
        help_text="Of all jobs together; `user_jobs` counts yours.",
    )
    network = NetworkLimitSerializer(help_text="What one job may reach.")
    python_version = PythonLimitSerializer(help_text="Which Python one job may have.")
    waiting_for = serializers.ChoiceField(
        choices=WAITING_FOR,
        allow_null=True,
        help_text="What new jobs wait for now; null: they would be started.",
    )


def _reason_document(reason: Reason, ending: Ending) -> dict[str, Any]:
    return {
        "reason": str(reason),
        "status": str(ending.status),
        "fault": str(ending.fault),
        "retryable": ending.retryable,
        "retried_automatically": ending.retried_by_us,
        "sentence": ending.sentence,
        "hint": ending.hint,
    }


def _limit_document(limit: Limit) -> dict[str, Any]:
    return {
        "default": limit.default,
        "minimum": limit.minimum,
        "maximum": limit.maximum,
        "used": limit.used,
        "unit": limit.unit,
    }


REASONS_EXAMPLE = {
    "reasons": [
        _reason_document(reason, ENDINGS[reason])
        for reason in (Reason.MISSING_MODULE, Reason.WORKER_LOST)
    ]
}
LIMITS_EXAMPLE = {
    "job": {
        "timeout": {
            "default": 300,
            "minimum": 60,
            "maximum": 3600,
            "used": None,
            "unit": "seconds",
        },
        "memory_mb": {
            "default": 2048,
            "minimum": 64,
            "maximum": 16384,
            "used": None,
            "unit": "MiB",
        },
    },
    "upload": {
        "script": {
            "default": None,
            "minimum": None,
            "maximum": 1048576,
            "used": None,
            "unit": "bytes",
        }
    },
    "platform": {
        "queue_jobs": {
            "default": None,
            "minimum": None,
            "maximum": 5000,
            "used": 12,
            "unit": "jobs",
        }
    },
    "network": {"default": "internet", "maximum": "internet"},
    "python_version": {"default": "3.11", "offered": ["3.11", "3.13"]},
    "waiting_for": None,
}


class ReasonsView(APIView):
    @extend_schema(
        operation_id="list_end_reasons",
        summary="Every reason why a job can end",
        description=(
            "The table that every job's `reason`, `error` and `hint` come from: whose fault it "
            "is, whether running it again helps, and whether the platform does so by itself."
        ),
        tags=["Training"],
        responses={200: OpenApiResponse(ReasonsSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Two of them", value=REASONS_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request) -> Response:
        return Response({"reasons": [_reason_document(*entry) for entry in reasons()]})


class LimitsView(APIView):
    @extend_schema(
        operation_id="get_training_limits",
        summary="Every limit, and how much of it is used",
        description=(
            "Each limit as default and maximum. A problem with the code `too_many_jobs` names one "
            "of these in `limit`."
        ),
        tags=["Training"],
        responses={200: OpenApiResponse(LimitsSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Some of them", value=LIMITS_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request) -> Response:
        limits = limits_now(owner=client_of(request).owner)
        groups = {"job": limits.job, "upload": limits.upload, "platform": limits.platform}
        document: dict[str, Any] = {
            name: {limit.name: _limit_document(limit) for limit in group}
            for name, group in groups.items()
        }
        document["network"] = dict(limits.network)
        versions = list(limits.python_versions)
        document["python_version"] = {"default": versions[0], "offered": versions}
        return Response({**document, "waiting_for": limits.waiting_for or None})
