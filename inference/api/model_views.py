"""The documented face of paths that the web process answers in `inference.asgi`."""

from asgiref.sync import async_to_sync
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from inference import asgi, door, gateway
from inference.refusals import Refused

NAME = OpenApiParameter("model_name", str, OpenApiParameter.PATH, description="The model's name.")
VERSION = OpenApiParameter(
    "version", str, OpenApiParameter.PATH, description="A number, an alias, or `latest`."
)
SCHEMA_EXAMPLE = {
    "model_name": "churn_predictor",
    "model_version": "1",
    "model_type": "RandomForestClassifier",
    "columns": [{"name": "age", "type": "long", "required": True}],
    "n_features": 1,
    "classes": [0, 1],
    "has_probabilities": True,
    "request": {"type": "object"},
    "response": {"type": "object"},
    "example": {
        "model_name": "churn_predictor",
        "model_version": "1",
        "inputs": {"age": [25]},
    },
    "hint": None,
}


def answered(request: Request) -> HttpResponse:
    """The same bytes as the web process, for Django's own test client and servers without ASGI."""

    async def ask() -> HttpResponse:
        scope = {"method": request.method, "path": request.path}
        handler = asgi.handler_of(scope)
        assert handler is not None  # noqa: S101 - both know the same paths
        headers = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
        asked = door.Request(
            str(request.method), request.path, headers, request._request.body, door.new_id(headers)
        )
        async with gateway.short_lived():
            try:
                status, told, content = await handler(asked)
            except Refused as refused:
                status, told, content = refused.problem.answer(
                    instance=request.path, request_id=asked.request_id
                )
        return HttpResponse(content, status=status, headers=told)

    response: HttpResponse = async_to_sync(ask)()
    return response


class SchemaView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="get_model_schema",
        summary="What a model takes and gives",
        description=(
            "JSON Schema of a request and of its answer, and an example that can be posted to "
            "`/mlops/inference` as it is. A version that was never loaded is loaded for it. "
            "`hint` says what happened, and how to mend it, where the model was logged with a "
            "signature that names no types, or without one; the example is then the one that was "
            "logged with it, or a guess."
        ),
        tags=["Serving"],
        parameters=[NAME, VERSION],
        responses={200: OpenApiResponse(OpenApiTypes.OBJECT, description="Request successful")},
        examples=[
            OpenApiExample("Schema", value=SCHEMA_EXAMPLE, response_only=True, status_codes=["200"])
        ],
    )
    def get(self, request: Request, model_name: str, version: str) -> HttpResponse:
        return answered(request)


class OpenApiView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="get_model_openapi",
        summary="A typed OpenAPI document of one model version",
        description="For generators of clients: the columns and classes of this version are types.",
        tags=["Serving"],
        parameters=[NAME, VERSION],
        responses={200: OpenApiResponse(OpenApiTypes.OBJECT, description="Request successful")},
    )
    def get(self, request: Request, model_name: str, version: str) -> HttpResponse:
        return answered(request)


class InvocationsView(APIView):
    parser_classes = []
    problem_codes = ("400", "404", "413", "503")

    @extend_schema(
        operation_id="invoke_model",
        summary="Run inference as `mlflow models serve` does",
        description=(
            "MLflow's forms: `dataframe_split`, `dataframe_records`, `instances`, `inputs`, and "
            "CSV as `text/csv`. Errors have MLflow's fields `error_code` and `message`."
        ),
        tags=["Inference"],
        parameters=[NAME, VERSION],
        request={"application/json": OpenApiTypes.OBJECT, "text/csv": OpenApiTypes.STR},
        responses={200: OpenApiResponse(OpenApiTypes.OBJECT, description="Request successful")},
        examples=[
            OpenApiExample(
                "Records",
                value={"dataframe_records": [{"age": 25, "income": 50000}]},
                request_only=True,
            ),
            OpenApiExample(
                "Predictions",
                value={"predictions": [1]},
                response_only=True,
                status_codes=["200"],
            ),
        ],
    )
    def post(self, request: Request, model_name: str, version: str) -> HttpResponse:
        return answered(request)
