"""OpenAPI glue: documents the problem answers of every operation once, and plain paths."""

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

PROBLEM_CODES = {"400": "Invalid input", "404": "Resource doesn't exist", "500": "Internal error"}


class FieldErrorSerializer(serializers.Serializer):
    field = serializers.CharField(help_text="The field that is wrong.")
    detail = serializers.CharField(help_text="What is wrong with it.")
    hint = serializers.CharField(required=False, help_text="How to mend it.")


class ProblemSerializer(serializers.Serializer):
    """An error as RFC 9457 has it; `detail` is always there."""

    type = serializers.CharField(help_text="`about:blank`, or the address of a description.")
    title = serializers.CharField(help_text="The status code in words.")
    status = serializers.IntegerField(help_text="The HTTP status code.")
    detail = serializers.CharField(help_text="One sentence that says what is wrong.")
    instance = serializers.CharField(help_text="The path that was asked for.")
    code = serializers.CharField(help_text="What is wrong, for a program.")
    hint = serializers.CharField(required=False, help_text="What to do about it.")
    errors = FieldErrorSerializer(  # type: ignore[assignment]
        many=True, required=False, help_text="One entry a field."
    )


class ProblemAutoSchema(AutoSchema):
    """Adds the problem answers that every operation can give."""

    def _get_response_bodies(
        self, direction: Literal["request", "response"] = "response"
    ) -> dict[str, Any]:
        bodies = super()._get_response_bodies(direction)
        for code, description in PROBLEM_CODES.items():
            if code not in bodies:
                bodies[code] = self._get_response_for_code(
                    OpenApiResponse(ProblemSerializer, description=description),
                    code,
                    media_types=["application/problem+json"],
                    direction=direction,
                )
        return bodies


def document_plain_paths(endpoints: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Both `/x` and `/x/` are served; the documentation shows the contract's form."""
    return [(path.replace("/?", "").rstrip("/") or "/", *rest) for path, *rest in endpoints]
