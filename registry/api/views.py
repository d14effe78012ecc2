"""The HTTP of the model registry."""

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.serializers import (
    RegisteredModelSerializer,
    RegisteredSerializer,
    RegisterSerializer,
    model_document,
    registered_document,
)
from registry.mlflow_client import model_registry

REGISTER_EXAMPLE = {
    "model_name": "churn_predictor",
    "run_id": "mlflow-run-id-123",
    "description": "Production model v2.0",
    "tags": {"data_version": "2025-10", "trained_by": "john.doe"},
}
REGISTERED_EXAMPLE = {
    "model_name": "churn_predictor",
    "version": "2",
    "run_id": "mlflow-run-id-123",
    "status": "registered",
    "created_at": "2025-10-23T10:15:00Z",
}
MODEL_EXAMPLE = {
    "name": "churn_predictor",
    "description": "Customer churn prediction model",
    "tags": {"team": "data-science"},
    "latest_versions": [
        {
            "name": "churn_predictor",
            "version": "2",
            "stage": "None",
            "run_id": "mlflow-run-id-123",
            "created_at": "2025-10-23T10:15:00Z",
            "updated_at": "2025-10-23T10:15:00Z",
        }
    ],
    "created_at": "2025-10-20T08:00:00Z",
    "updated_at": "2025-10-23T10:15:00Z",
}


class RegisterView(APIView):
    @extend_schema(
        operation_id="register_model",
        summary="Register the model of a run",
        tags=["Registry"],
        request=RegisterSerializer,
        responses={201: RegisteredSerializer},
        examples=[
            OpenApiExample("Run", value=REGISTER_EXAMPLE, request_only=True),
            OpenApiExample(
                "Registered", value=REGISTERED_EXAMPLE, response_only=True, status_codes=["201"]
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        asked = RegisterSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        version = model_registry().register_run(
            asked.validated_data["model_name"],
            asked.validated_data["run_id"],
            description=asked.validated_data["description"],
            tags=asked.validated_data.get("tags", {}),
        )
        return Response(registered_document(version), status=201)


class ModelListView(APIView):
    @extend_schema(
        operation_id="list_models",
        summary="List the registered models",
        tags=["Registry"],
        responses={200: RegisteredModelSerializer(many=True)},
        examples=[
            OpenApiExample("Models", value=MODEL_EXAMPLE, response_only=True, status_codes=["200"])
        ],
    )
    def get(self, request: Request) -> Response:
        return Response([model_document(model) for model in model_registry().list_models()])


class ModelView(APIView):
    @extend_schema(
        operation_id="get_model",
        summary="Look at a registered model",
        tags=["Registry"],
        parameters=[
            OpenApiParameter("model_name", str, OpenApiParameter.PATH, description="Its name.")
        ],
        responses={200: RegisteredModelSerializer},
        examples=[
            OpenApiExample("Model", value=MODEL_EXAMPLE, response_only=True, status_codes=["200"])
        ],
    )
    def get(self, request: Request, model_name: str) -> Response:
        return Response(model_document(model_registry().model(model_name)))
