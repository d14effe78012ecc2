"""The documented face of predictions; the web process answers them in `inference.asgi`."""

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from inference.api.model_views import answered
from inference.api.serializers import InferenceRequestSerializer, InferenceResponseSerializer
from registry.api.examples import problem_example

REQUEST_EXAMPLE = {
    "model_name": "churn_predictor",
    "model_version": "1",
    "inputs": {
        "age": [25, 35, 45],
        "income": [50000, 75000, 100000],
        "tenure": [1, 5, 10],
    },
    "return_probabilities": True,
}
RECORDS_EXAMPLE = {
    "model_name": "churn_predictor",
    "inputs": [
        {"age": 25, "income": 50000, "tenure": 1},
        {"age": 35, "income": 75000, "tenure": 5},
    ],
}
ENTITIES_EXAMPLE = {
    "model_name": "churn_predictor",
    "entities": {"customer_id": [1, 2]},
    "feature_service": "churn",
    "return_features": True,
}
MISSING_EXAMPLE = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "The feature store has no value for age of customer_id=999.",
    "instance": "/mlops/inference",
    "code": "features_missing",
    "hint": (
        'Send their values in `inputs`, or "missing_features": "null" where the model takes '
        "missing values."
    ),
    "errors": [
        {
            "field": "features.age",
            "detail": "row 0, customer_id=999: the online store has nothing for it",
        }
    ],
}
RESPONSE_EXAMPLE = {
    "model_name": "churn_predictor",
    "model_version": "1",
    "predictions": [1, 0, 0],
    "probabilities": [[0.2, 0.8], [0.9, 0.1], [0.95, 0.05]],
    "classes": [0, 1],
    "inference_time_ms": 15.3,
    "timestamp": "2025-10-23T10:10:00Z",
    "request_id": "0b1f6f7e5f8a4c1e9d3b2a1908f7e6d5",
}
UNKNOWN_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Model my_model version 999 not found",
    "instance": "/mlops/inference",
    "code": "model_version_not_found",
}
REFUSED_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "expected columns age, income, tenure; got age, income; missing: tenure",
    "instance": "/mlops/inference",
    "code": "columns_mismatch",
    "errors": [{"field": "inputs.tenure", "detail": "missing"}],
}
NO_PROBABILITIES_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": (
        "This model (XGBRegressor) has no probabilities; send the request without "
        "`return_probabilities`."
    ),
    "instance": "/mlops/inference",
    "code": "no_probabilities",
    "errors": [{"field": "return_probabilities", "detail": "XGBRegressor has no probabilities"}],
}
STARTING_EXAMPLE = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "Model churn_predictor version 1 is still being loaded.",
    "instance": "/mlops/inference",
    "code": "model_starting",
    "hint": "Send the request again in a few seconds.",
}


class InferenceView(APIView):
    """For Django's own test client and servers without ASGI; the same bytes either way."""

    parser_classes = []
    problem_codes = ("400", "404", "413", "422", "503")

    @extend_schema(
        operation_id="run_inference",
        summary="Run inference",
        description=(
            "Make predictions using a trained model. The first request to a model that nobody "
            "used for a while waits until it is loaded; when that takes too long, the answer is "
            "503 with `Retry-After`. With `entities`, features are looked up in the feature store "
            "and sent to the model in the columns that it was trained on."
        ),
        tags=["Inference"],
        request={"application/json": InferenceRequestSerializer},
        responses={
            200: OpenApiResponse(InferenceResponseSerializer, description="Request successful"),
        },
        examples=[
            OpenApiExample("Columns", value=REQUEST_EXAMPLE, request_only=True),
            OpenApiExample("Records, latest version", value=RECORDS_EXAMPLE, request_only=True),
            OpenApiExample("Entities and features", value=ENTITIES_EXAMPLE, request_only=True),
            OpenApiExample(
                "Predictions", value=RESPONSE_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Inputs that do not fit", REFUSED_EXAMPLE, "400"),
            problem_example("A model without probabilities", NO_PROBABILITIES_EXAMPLE, "400"),
            problem_example("A feature without a value", MISSING_EXAMPLE, "422"),
            problem_example("Unknown version", UNKNOWN_EXAMPLE, "404"),
            problem_example("Still loading", STARTING_EXAMPLE, "503"),
        ],
    )
    def post(self, request: Request) -> HttpResponse:
        return answered(request)
