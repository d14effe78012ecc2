"""`/mlops/features`: what is in the feature store, and the filling of its online part."""

from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from registry.api.feature_documents import (
    FeatureStoreSerializer,
    MaterializationListSerializer,
    MaterializationSerializer,
    MaterializeSerializer,
    materialization_document,
    store_document,
)
from registry.feature_store import services

PATH = "/mlops/features"
ORDERS = f"{PATH}/materializations"
TAG = "Features"
COLUMN = {"name": "customer_id", "type": "INT64", "description": ""}
VIEW_EXAMPLE = {
    "name": "customer_profile",
    "kind": "batch",
    "entities": ["customer"],
    "join_keys": [COLUMN],
    "features": [{"name": "age", "type": "Int64", "description": ""}],
    "sources": [
        {
            "name": "customers",
            "kind": "file",
            "detail": "customers.parquet",
            "timestamp": "event_timestamp",
        }
    ],
    "ttl_seconds": 7776000.0,
    "can_materialize": True,
    "materialized_until": "2025-10-23T10:00:01Z",
    "newest_event_at": "2025-10-23T10:00:00Z",
    "freshness": "fresh",
    "description": "",
    "owner": "",
    "tags": {},
}
STORE_EXAMPLE = {
    "configured": True,
    "described_at": "2025-10-23T10:00:12Z",
    "is_being_described": False,
    "error": None,
    "project": "churn",
    "online_store": "sqlite",
    "offline_store": "duckdb",
    "entities": [
        {"name": "customer", "join_key": "customer_id", "type": "INT64", "description": ""}
    ],
    "feature_views": [VIEW_EXAMPLE],
    "feature_services": [
        {
            "name": "churn",
            "feature_views": [
                {
                    "feature_view": "customer_profile",
                    "name": "customer_profile",
                    "features": ["age"],
                }
            ],
            "join_keys": [COLUMN],
            "description": "",
            "owner": "",
            "problem": None,
        }
    ],
}
ORDER_EXAMPLE = {
    "id": 7,
    "state": "completed",
    "feature_views": ["customer_profile"],
    "outcomes": [
        {
            "feature_view": "customer_profile",
            "materialized_until": "2025-10-23T10:05:00Z",
            "seconds": 0.6,
            "error": None,
        }
    ],
    "error": None,
    "asked_by": "",
    "asked_at": "2025-10-23T10:04:52Z",
    "started_at": "2025-10-23T10:04:52Z",
    "ended_at": "2025-10-23T10:05:01Z",
}
ASKED_EXAMPLE = {
    **ORDER_EXAMPLE,
    "state": "waiting",
    "outcomes": [],
    "started_at": None,
    "ended_at": None,
}
REJECTED_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "Nothing is materialised. There is no feature view custmer_profile.",
    "instance": f"{PATH}/materialize",
    "code": "feature_views_rejected",
    "errors": [{"field": "feature_views", "detail": "There is no feature view custmer_profile."}],
}
MISSING_EXAMPLE = {
    "type": "about:blank",
    "title": "Conflict",
    "status": 409,
    "detail": services.FeatureStoreMissing.default_detail,
    "instance": f"{PATH}/materialize",
    "code": "no_feature_store",
    "hint": services.FeatureStoreMissing.hint,
}
UNKNOWN_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Materialisation 7 not found",
    "instance": f"{ORDERS}/7",
    "code": "materialization_not_found",
}


class FeatureStoreView(APIView):
    @extend_schema(
        operation_id="get_feature_store",
        summary="Look at the feature store",
        description=(
            "Entities, feature views with their freshness, and feature services, as a worker read "
            "them last. When the feature store has changed since, or nobody has read it yet, it is "
            "read anew, which takes some seconds: `is_being_described` says so."
        ),
        tags=[TAG],
        responses={200: OpenApiResponse(FeatureStoreSerializer, description="As it was read last")},
        examples=[
            OpenApiExample(
                "Feature store", value=STORE_EXAMPLE, response_only=True, status_codes=["200"]
            )
        ],
    )
    def get(self, request: Request) -> Response:
        return Response(store_document(services.look(), now=timezone.now()))


class MaterializeView(APIView):
    problem_codes = ("400", "409", "413", "415")

    @extend_schema(
        operation_id="materialize_features",
        summary="Materialise feature views",
        description=(
            "Brings the events since the last materialisation into the online store, where "
            "predictions find them. A worker does it, one order at a time; look at the order to "
            "see what became of it."
        ),
        tags=[TAG],
        request=MaterializeSerializer,
        responses={202: OpenApiResponse(MaterializationSerializer, description="It will be done")},
        examples=[
            OpenApiExample(
                "Some", value={"feature_views": ["customer_profile"]}, request_only=True
            ),
            OpenApiExample("All", value={}, request_only=True),
            OpenApiExample("Asked", value=ASKED_EXAMPLE, response_only=True, status_codes=["202"]),
            problem_example("A view that is not there", REJECTED_EXAMPLE, "400"),
            problem_example("No feature store", MISSING_EXAMPLE, "409"),
        ],
    )
    def post(self, request: Request) -> Response:
        asked = MaterializeSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        made = services.ask_materialization(asked.validated_data["feature_views"], actor="")
        return Response(materialization_document(made), status=202)


class MaterializationListView(APIView):
    @extend_schema(
        operation_id="list_materializations",
        summary="List materialisations",
        description=f"The newest {services.SHOWN} that were asked for, in the console or here.",
        tags=[TAG],
        responses={200: OpenApiResponse(MaterializationListSerializer, description="The newest")},
        examples=[
            OpenApiExample(
                "Materialisations",
                value={"materializations": [ORDER_EXAMPLE]},
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
    def get(self, request: Request) -> Response:
        rows = services.newest_materializations()
        document: dict[str, Any] = {
            "materializations": [materialization_document(row) for row in rows]
        }
        return Response(document)


class MaterializationView(APIView):
    problem_codes: ClassVar = ("404",)

    @extend_schema(
        operation_id="get_materialization",
        summary="Look at a materialisation",
        description="How far it has come, and what became of each feature view.",
        tags=[TAG],
        parameters=[
            OpenApiParameter("number", int, OpenApiParameter.PATH, description="Its `id`.")
        ],
        responses={200: OpenApiResponse(MaterializationSerializer, description="Found")},
        examples=[
            OpenApiExample(
                "Materialisation", value=ORDER_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Unknown materialisation", UNKNOWN_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, number: str) -> Response:
        return Response(materialization_document(services.materialization_of(int(number))))
