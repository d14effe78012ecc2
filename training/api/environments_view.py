"""`/mlops/environments`: what is installed on this engine, and who needs it."""

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from registry.list_queries import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    QueryReader,
    limit_of,
    member_of,
    time_and_key_of,
    whole_name,
)
from registry.rawhttp.cursors import cursor_of
from sandbox.image.lock_file import pins_in
from training.api.examples import LOCK_EXAMPLE, PYLOCK_EXAMPLE
from training.environment_listing import EnvironmentFilter, newest, terms_in
from training.models import BuiltEnvironment
from training.services import environments
from training.services.environment_needs import models_in, users_of

PATH = "/mlops/environments"
PARAMETERS = ("state", "python_version", "text", "limit", "cursor")
MB = 1_000_000
KEY = OpenApiParameter(
    "key", str, OpenApiParameter.PATH, description="The environment, as the list names it."
)
ROW_EXAMPLE = {
    "key": "0f3b6d4c1a2e5f708192",
    "state": "ready",
    "python_version": "3.11",
    "packages": 38,
    "size_mb": 402.7,
    "created_at": "2025-10-23T09:58:10Z",
    "built_at": "2025-10-23T09:58:17Z",
    "build_seconds": 7.1,
    "last_used_at": "2025-10-23T10:00:00Z",
    "jobs": 12,
    "in_use_by": ["job 8f14e45f-ceea-467f-9575-5d2b1a3f5c7e"],
    "needed_by": ["model churn_predictor version 3"],
    "asked": None,
    "error": None,
}
DETAIL_EXAMPLE = {
    **ROW_EXAMPLE,
    "pins": ["mlflow-skinny==3.13.0", "scikit-learn==1.5.2"],
    "requirements_txt": LOCK_EXAMPLE,
    "pylock_toml": PYLOCK_EXAMPLE,
    "build_log": "Resolving 1 requirement\nInstalling 38 packages\nCompiling\n",
}
REBUILD_EXAMPLE = {**ROW_EXAMPLE, "asked": "rebuild", "in_use_by": []}
DELETE_EXAMPLE = {**ROW_EXAMPLE, "asked": "delete", "in_use_by": [], "needed_by": []}
UNKNOWN_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Environment 0f3b6d4c1a2e5f708192 not found",
    "instance": f"{PATH}/0f3b6d4c1a2e5f708192",
    "code": "environment_not_found",
    "hint": "GET /mlops/environments lists them.",
}
NEEDED_EXAMPLE = {
    "type": "about:blank",
    "title": "Conflict",
    "status": 409,
    "detail": ("Environment 0f3b6d4c1a2e5f708192 is needed by model churn_predictor version 3."),
    "instance": f"{PATH}/0f3b6d4c1a2e5f708192",
    "code": "environment_needed",
    "hint": "Wait until they have ended, or delete the models that were made in it.",
}


class EnvironmentSerializer(serializers.Serializer):
    """An environment: a set of packages that was installed once."""

    key = serializers.CharField(help_text="Its name, made of what is in it.")
    state = serializers.ChoiceField(
        choices=BuiltEnvironment.State.choices,
        help_text="`gone`: not on the disk; it is built again from its lock when it is needed.",
    )
    python_version = serializers.CharField(
        allow_null=True,
        help_text="Null: no base image that is offered has it, or nobody has looked yet.",
    )
    packages = serializers.IntegerField(help_text="How many packages are in it.")
    size_mb = serializers.FloatField(
        allow_null=True,
        help_text=(
            "On the disk, in 10⁶ bytes. Files that several environments share count in each. Null "
            "while nobody has counted, as during its build; 0 when it is gone."
        ),
    )
    created_at = serializers.DateTimeField(help_text="When it was built first.")
    built_at = serializers.DateTimeField(allow_null=True, help_text="When it was built last.")
    build_seconds = serializers.FloatField(
        allow_null=True, help_text="How long the last build took; null where nobody measured it."
    )
    last_used_at = serializers.DateTimeField(
        allow_null=True, help_text="When a job or a server last asked for it."
    )
    jobs = serializers.IntegerField(help_text="Jobs that began in it.")
    in_use_by = serializers.ListField(
        child=serializers.CharField(),
        help_text="Jobs that run in it and model servers that have it, now.",
    )
    needed_by = serializers.ListField(
        child=serializers.CharField(),
        help_text=(
            "Registered model versions that were made in it, from the moment a job registers one. "
            "What was deleted, or registered by hand, shows some minutes later."
        ),
    )
    asked = serializers.ChoiceField(
        choices=BuiltEnvironment.Asked.choices,
        allow_null=True,
        help_text="What is about to be done to it.",
    )
    error = serializers.CharField(
        allow_null=True, help_text="Why the last build failed, or the last wish was not granted."
    )


class EnvironmentDetailSerializer(EnvironmentSerializer):
    """An environment with its lock and the log of its last build."""

    pins = serializers.ListField(
        child=serializers.CharField(), help_text="Every package with its exact version."
    )
    requirements_txt = serializers.CharField(
        help_text="The lock, for `pip install --require-hashes -r`."
    )
    pylock_toml = serializers.CharField(help_text="The lock as PEP 751 has it.")
    build_log = serializers.CharField(help_text="What the last build printed.")


class EnvironmentPageSerializer(serializers.Serializer):
    """A page of environments."""

    environments = EnvironmentSerializer(many=True, help_text="Newest first.")
    next = serializers.CharField(
        allow_null=True, help_text="The path of the next page; null on the last one."
    )


class EnvironmentListView(APIView):
    problem_codes = ("400",)

    @extend_schema(
        operation_id="list_environments",
        summary="List environments",
        description=(
            "What is installed on this engine, newest first, a page at a time. `next` is the path "
            "of the next page, and so is the `Link` header."
        ),
        tags=["Environments"],
        parameters=[
            OpenApiParameter(
                "state", str, description="Only these.", enum=BuiltEnvironment.State.values
            ),
            OpenApiParameter("python_version", str, description="Only these, such as `3.11`."),
            OpenApiParameter(
                "text",
                str,
                description=(
                    "Only those that have these packages, with a version or without, or whose key "
                    "begins so: `xgboost==2.1 pandas`. Beginnings are enough."
                ),
            ),
            OpenApiParameter(
                "limit",
                int,
                description=f"On a page, 1 to {LIMIT_MAX}; {LIMIT_DEFAULT} without it.",
            ),
            OpenApiParameter("cursor", str, description="From the `next` of an earlier answer."),
        ],
        responses={200: OpenApiResponse(EnvironmentPageSerializer, description="A page")},
        examples=[
            OpenApiExample(
                "A page",
                value={"environments": [ROW_EXAMPLE], "next": None},
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
    def get(self, request: Request) -> Response:
        reader = QueryReader(request.query_params, PARAMETERS)
        reader.refuse_unknown()
        state = reader.one("state", member_of(BuiltEnvironment.State))
        python = reader.one("python_version", whole_name)
        terms = reader.one("text", _terms)
        limit = reader.one("limit", limit_of) or LIMIT_DEFAULT
        after = reader.one("cursor", time_and_key_of)
        reader.raise_if_any()
        wanted = EnvironmentFilter(
            states=(state,) if state else (), python_version=python or "", terms=terms or ()
        )
        found = newest(wanted, limit=limit + 1, after=after)
        shown = found[:limit]
        path = None
        if len(found) > limit:
            following = request.query_params.copy()
            following["cursor"] = cursor_of(shown[-1].created_at, shown[-1].key)
            path = f"{PATH}?{following.urlencode()}"
        headers = {"Link": f'<{path}>; rel="next"'} if path else {}
        document = {"environments": _rows(shown), "next": path}
        return Response(document, headers=headers)


class BuiltEnvironmentView(APIView):
    problem_codes: ClassVar = {"GET": ("404",), "DELETE": ("404", "409")}

    @extend_schema(
        operation_id="get_environment",
        summary="Look at an environment",
        description="Its packages, its lock in both forms, and the log of its last build.",
        tags=["Environments"],
        parameters=[KEY],
        responses={200: OpenApiResponse(EnvironmentDetailSerializer, description="Found")},
        examples=[
            OpenApiExample(
                "Environment", value=DETAIL_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Unknown environment", UNKNOWN_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(_detail(environments.environment_of(key)))

    @extend_schema(
        operation_id="delete_environment",
        summary="Delete an environment",
        description=(
            "A worker removes its folder; look at it again to see whether it is `gone`. 409 says "
            "which jobs, servers and models need it. The next job with the same requirements has "
            "it built again."
        ),
        tags=["Environments"],
        parameters=[KEY],
        responses={202: OpenApiResponse(EnvironmentSerializer, description="It will be deleted")},
        examples=[
            OpenApiExample("Asked", value=DELETE_EXAMPLE, response_only=True, status_codes=["202"]),
            problem_example("Unknown environment", UNKNOWN_EXAMPLE, "404"),
            problem_example("Needed", NEEDED_EXAMPLE, "409"),
        ],
    )
    def delete(self, request: Request, key: str) -> Response:
        return Response(_rows([environments.ask_delete(key)])[0], status=202)


class RebuildView(APIView):
    problem_codes = ("404", "409")

    @extend_schema(
        operation_id="rebuild_environment",
        summary="Build an environment again",
        description=(
            "From its lock: the same files, by their hashes. 409 while a job or a server has it."
        ),
        tags=["Environments"],
        parameters=[KEY],
        request=None,
        responses={202: OpenApiResponse(EnvironmentSerializer, description="It will be built")},
        examples=[
            OpenApiExample(
                "Asked", value=REBUILD_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("Unknown environment", UNKNOWN_EXAMPLE, "404"),
            problem_example("Needed", NEEDED_EXAMPLE, "409"),
        ],
    )
    def post(self, request: Request, key: str) -> Response:
        return Response(_rows([environments.ask_rebuild(key)])[0], status=202)


def _terms(value: str) -> tuple[str, ...]:
    """Raises WrongValue."""
    return terms_in(whole_name(value))


def _rows(shown: Sequence[BuiltEnvironment]) -> list[dict[str, Any]]:
    """With who needs each of them, asked for all of them at once."""
    users, models = users_of([one.key for one in shown]), models_in(shown)
    return [_row(one, users[one.key], models[one.key]) for one in shown]


def _row(one: BuiltEnvironment, users: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
    return {
        "key": one.key,
        "state": one.state,
        "python_version": one.python_version or None,
        "packages": one.packages,
        "size_mb": round(one.size_bytes / MB, 1) if one.size_is_known else None,
        "created_at": one.created_at,
        "built_at": one.built_at,
        "build_seconds": one.build_seconds,
        "last_used_at": one.last_used_at,
        "jobs": one.jobs,
        "in_use_by": users,
        "needed_by": models,
        "asked": one.asked or None,
        "error": one.error or None,
    }


def _detail(one: BuiltEnvironment) -> dict[str, Any]:
    return {
        **_rows([one])[0],
        "pins": pins_in(one.lock),
        "requirements_txt": one.lock,
        "pylock_toml": one.pylock,
        "build_log": one.build_log,
    }
