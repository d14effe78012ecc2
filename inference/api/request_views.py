"""The HTTP of the sampled log of requests; for administrators alone, since it holds their data."""

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.request_files import newest

NAME = OpenApiParameter("model_name", str, OpenApiParameter.PATH, description="The model's name.")
LIMIT_MOST = 200


class AskedSerializer(serializers.Serializer):
    """Which records."""

    version = serializers.CharField(
        required=False, default="", help_text="Only those of this version."
    )
    request_id = serializers.CharField(
        required=False, default="", help_text="Only those of this request."
    )
    limit = serializers.IntegerField(
        required=False, default=50, min_value=1, max_value=LIMIT_MOST, help_text="At most so many."
    )


class RecordSerializer(serializers.Serializer):
    """One request that was written down."""

    time = serializers.DateTimeField(help_text="When it was answered, UTC.")
    request_id = serializers.CharField(help_text="As in its answer.")
    model_name = serializers.CharField(help_text="The model.")
    model_version = serializers.CharField(help_text="The version that answered.")
    status = serializers.IntegerField(help_text="The answer's status.")
    code = serializers.CharField(help_text="The code of the problem; empty for an answer.")
    milliseconds = serializers.DictField(
        child=serializers.FloatField(), help_text="Where the time went, by stage."
    )
    request = serializers.JSONField(
        allow_null=True, help_text="What the model was asked; null where it was too long."
    )
    request_bytes = serializers.IntegerField(help_text="How long that was.")
    answer = serializers.JSONField(
        allow_null=True, help_text="What it said, or the problem; null where it was too long."
    )
    answer_bytes = serializers.IntegerField(help_text="How long that was.")


class RecordsSerializer(serializers.Serializer):
    """The newest first."""

    requests = RecordSerializer(many=True, help_text="A sample, unless the rate is 1.")


RECORDS_EXAMPLE = {
    "requests": [
        {
            "time": "2025-10-23T10:10:00.123+00:00",
            "request_id": "0b1f6f7e5f8a4c1e9d3b2a1908f7e6d5",
            "model_name": "churn_predictor",
            "model_version": "1",
            "status": 200,
            "code": "",
            "milliseconds": {"gateway": 0.3, "queue": 0.1, "model": 0.2, "total": 0.6},
            "request": {"model_name": "churn_predictor", "inputs": {"age": [25]}},
            "request_bytes": 55,
            "answer": {
                "predictions": [1],
                "probabilities": None,
                "classes": None,
                "inference_time_ms": 0.2,
            },
            "answer_bytes": 85,
        }
    ]
}


class RequestsView(APIView):
    authentication_classes = [BasicAuthentication, SessionAuthentication]
    permission_classes = [IsAdminUser]
    problem_codes = ("400", "401", "403")

    @extend_schema(
        operation_id="list_requests",
        summary="Look at requests that were written down",
        description=(
            "The newest requests of a model with their answers, where the operator has a sample of "
            "them written down (`MLOPS_REQUEST_LOG`). They hold customers' data: only an "
            "administrator may read them, with name and password (HTTP Basic) or logged in to the "
            "admin."
        ),
        tags=["Serving"],
        parameters=[NAME, AskedSerializer],
        responses={200: OpenApiResponse(RecordsSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Requests", value=RECORDS_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request, model_name: str) -> Response:
        asked = AskedSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        records = newest(settings.REQUEST_LOG_DIR, model_name=model_name, **asked.validated_data)
        return Response({"requests": records})
