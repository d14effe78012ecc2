"""The HTTP of the model registry."""

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
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


RUN_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Run mlflow-run-id-123 not found",
    "instance": "/mlops/registry",
    "code": "run_not_found",
}
INVALID_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "The request is not valid. run_id: This field is required.",
    "instance": "/mlops/registry",
    "code": "invalid",
    "errors": [{"field": "run_id", "detail": "This field is required."}],
}
NO_MODEL_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "Run mlflow-run-id-123 has no logged model that is ready",
    "instance": "/mlops/registry",
    "code": "no_model_in_run",
    "hint": 'Log one in the run: mlflow.<flavour>.log_model(model, "model").',
}
NO_SUCH_MODEL_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Model churn_predictor not found",
    "instance": "/mlops/models/churn_predictor",
    "code": "model_not_found",
}


class RegisterView(APIView):
    problem_codes = ("400", "404", "413", "415", "503")

    @extend_schema(
        operation_id="register_model",
        summary="Register the model of a run",
        description=(
            "Makes a new version of `model_name` from the model that the run logged last. Models "
            "of jobs are registered by themselves."
        ),
        tags=["Registry"],
        request=RegisterSerializer,
        responses={201: OpenApiResponse(RegisteredSerializer, description="Resource created")},
        examples=[
            OpenApiExample("Run", value=REGISTER_EXAMPLE, request_only=True),
            OpenApiExample(
                "Registered", value=REGISTERED_EXAMPLE, response_only=True, status_codes=["201"]
            ),
            problem_example("A field is missing", INVALID_EXAMPLE, "400"),
            problem_example("The run has no model", NO_MODEL_EXAMPLE, "400"),
            problem_example("Unknown run", RUN_EXAMPLE, "404"),
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
    problem_codes = ("503",)

    @extend_schema(
        operation_id="list_models",
        summary="List the registered models",
        description="Every registered model with its newest version, by name.",
        tags=["Registry"],
        responses={
            200: OpenApiResponse(
                RegisteredModelSerializer(many=True), description="Request successful"
            )
        },
        examples=[
            OpenApiExample("Models", value=MODEL_EXAMPLE, response_only=True, status_codes=["200"])
        ],
    )
    def get(self, request: Request) -> Response:
        return Response([model_document(model) for model in model_registry().list_models()])


class ModelView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="get_model",
        summary="Look at a registered model",
        description="The same as an item of the list.",
        tags=["Registry"],
        parameters=[
            OpenApiParameter(
                "model_name", str, OpenApiParameter.PATH, description="The model's name."
            )
        ],
        responses={
            200: OpenApiResponse(RegisteredModelSerializer, description="Request successful")
        },
        examples=[
            OpenApiExample("Model", value=MODEL_EXAMPLE, response_only=True, status_codes=["200"]),
            problem_example("Unknown model", NO_SUCH_MODEL_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, model_name: str) -> Response:
        return Response(model_document(model_registry().model(model_name)))
