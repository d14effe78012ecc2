"""The HTTP of aliases: what a name such as `champion` means now and meant before."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.actor import actor_of
from inference.question import MAX_VERSION_DIGITS
from inference.services import aliases
from registry.api.examples import problem_example

NAME = OpenApiParameter("model_name", str, OpenApiParameter.PATH, description="The model's name.")
ALIAS_NAME = OpenApiParameter(
    "alias", str, OpenApiParameter.PATH, description="Such as `champion`; letters, digits, - and _."
)
ALIAS_EXAMPLE = {
    "model_name": "churn_predictor",
    "alias": "champion",
    "version": "2",
    "history": [
        {
            "version": "2",
            "previous": "1",
            "how": "set",
            "reason": "Better on last month's holdout.",
            "actor": "127.0.0.1",
            "at": "2025-10-23T10:20:00Z",
        },
        {
            "version": "1",
            "previous": None,
            "how": "set",
            "reason": "",
            "actor": "127.0.0.1",
            "at": "2025-10-23T10:00:00Z",
        },
    ],
}
NONE_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Model churn_predictor has no alias champion",
    "instance": "/mlops/models/churn_predictor/aliases/champion",
    "code": "alias_not_found",
}
NO_WAY_BACK_EXAMPLE = {
    "type": "about:blank",
    "title": "Conflict",
    "status": 409,
    "detail": ("churn_predictor@champion never named another version, as far as is known here."),
    "instance": "/mlops/models/churn_predictor/aliases/champion/rollback",
    "code": "nothing_to_roll_back_to",
}


class AliasReasonSerializer(serializers.Serializer):
    """Why an alias is moved."""

    reason = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=aliases.NOTE_CHARACTERS,
        help_text="Kept in the history, and shown there.",
    )


class AliasRequestSerializer(AliasReasonSerializer):
    """Which version the alias names from now on, and why."""

    version = serializers.RegexField(
        rf"^[0-9]{{1,{MAX_VERSION_DIGITS}}}$", help_text='A version\'s number, such as "2".'
    )


class AliasChangeSerializer(serializers.Serializer):
    """One change of an alias."""

    version = serializers.CharField(
        allow_null=True, help_text="What it named from then on; null: it was taken away."
    )
    previous = serializers.CharField(allow_null=True, help_text="What it named before.")
    how = serializers.ChoiceField(
        choices=["set", "deleted", "rolled_back", "seen"],
        help_text="`seen`: it was changed in MLflow itself, and noticed at `at`.",
    )
    reason = serializers.CharField(help_text="Why, in the words of who did it; may be empty.")
    actor = serializers.CharField(help_text="Who did it; empty where that is not known.")
    at = serializers.DateTimeField(help_text="When, UTC.")


class AliasSerializer(serializers.Serializer):
    """What an alias names, and what it named before, the newest first."""

    model_name = serializers.CharField(help_text="The model.")
    alias = serializers.CharField(help_text="The alias.")
    version = serializers.CharField(help_text="The version that it names now.")
    history = AliasChangeSerializer(many=True, help_text="At most 100 changes.")


class AliasesSerializer(serializers.Serializer):
    """Every alias of a model with its version."""

    aliases = serializers.DictField(child=serializers.CharField(), help_text="Version by alias.")


def _document(alias: aliases.Alias) -> dict[str, Any]:
    return {
        "model_name": alias.model_name,
        "alias": alias.alias,
        "version": alias.version,
        "history": [
            {
                "version": change.version or None,
                "previous": change.previous or None,
                "how": change.how,
                "reason": change.note,
                "actor": change.actor,
                "at": change.at,
            }
            for change in alias.history
        ],
    }


def _checked(alias: str) -> str:
    """Raises ValidationError for what would be read as a version."""
    problem = aliases.alias_problem(alias)
    if problem:
        raise serializers.ValidationError({"alias": problem})
    return alias


class AliasListView(APIView):
    problem_codes = ("404", "503")

    @extend_schema(
        operation_id="list_aliases",
        summary="List the aliases of a model",
        description="What each alias names now.",
        tags=["Serving"],
        parameters=[NAME],
        responses={200: OpenApiResponse(AliasesSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Aliases",
                value={"aliases": {"champion": "2"}},
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
    def get(self, request: Request, model_name: str) -> Response:
        return Response({"aliases": aliases.all_aliases(model_name)})


class AliasView(APIView):
    problem_codes = ("400", "404", "503")

    @extend_schema(
        operation_id="get_alias",
        summary="Look at an alias and its history",
        description="Which version it names, and what it named before, by whom and when.",
        tags=["Serving"],
        parameters=[NAME, ALIAS_NAME],
        responses={200: OpenApiResponse(AliasSerializer, description="Request successful")},
        examples=[
            OpenApiExample("Alias", value=ALIAS_EXAMPLE, response_only=True, status_codes=["200"]),
            problem_example("No such alias", NONE_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, model_name: str, alias: str) -> Response:
        return Response(_document(aliases.look(model_name, alias)))

    @extend_schema(
        operation_id="set_alias",
        summary="Point an alias at a version",
        description=(
            "Predictions with this alias are answered by that version from now on. While the "
            "alias is in use, the version before goes on answering until the new one is loaded. "
            "`reason` is kept in the history; nothing is where the alias names it already."
        ),
        tags=["Serving"],
        parameters=[NAME, ALIAS_NAME],
        request=AliasRequestSerializer,
        responses={200: OpenApiResponse(AliasSerializer, description="Request successful")},
        examples=[
            OpenApiExample("Version", value={"version": "2"}, request_only=True),
            OpenApiExample(
                "With a reason",
                value={"version": "2", "reason": "Better on last month's holdout."},
                request_only=True,
            ),
            OpenApiExample("Alias", value=ALIAS_EXAMPLE, response_only=True, status_codes=["200"]),
        ],
    )
    def put(self, request: Request, model_name: str, alias: str) -> Response:
        asked = AliasRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        version = str(int(asked.validated_data["version"]))
        done = aliases.point(
            model_name,
            _checked(alias),
            version,
            actor=actor_of(request),
            note=asked.validated_data["reason"],
        )
        return Response(_document(done))

    @extend_schema(
        operation_id="delete_alias",
        summary="Take an alias away",
        description="Predictions with it are refused from now on; its history stays.",
        tags=["Serving"],
        parameters=[NAME, ALIAS_NAME],
        responses={204: OpenApiResponse(description="It is gone")},
    )
    def delete(self, request: Request, model_name: str, alias: str) -> Response:
        aliases.take_away(model_name, alias, actor=actor_of(request))
        return Response(status=204)


class RollbackView(APIView):
    problem_codes = ("400", "404", "409", "503")

    @extend_schema(
        operation_id="roll_back_alias",
        summary="Roll an alias back",
        description=(
            "It names the version again that it named before. Needs no body; may have a `reason`, "
            "which is kept in the history."
        ),
        tags=["Serving"],
        parameters=[NAME, ALIAS_NAME],
        request=AliasReasonSerializer,
        responses={200: OpenApiResponse(AliasSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Why", value={"reason": "Too many false alarms since noon."}, request_only=True
            ),
            OpenApiExample("Alias", value=ALIAS_EXAMPLE, response_only=True, status_codes=["200"]),
            problem_example("No version before", NO_WAY_BACK_EXAMPLE, "409"),
        ],
    )
    def post(self, request: Request, model_name: str, alias: str) -> Response:
        asked = AliasReasonSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        done = aliases.roll_back(
            model_name, alias, actor=actor_of(request), note=asked.validated_data["reason"]
        )
        return Response(_document(done))
