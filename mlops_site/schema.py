"""OpenAPI glue: documents the problem answers of every operation once, and plain paths."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from rest_framework import serializers

from mlops_site.problems import INTERNAL_DETAIL, problem_document

PROBLEM_TYPE = "application/problem+json"
# What a code means, and an answer that has it; a view's own example of a code comes first.
PROBLEMS = {
    "400": ("Invalid input", "bad_request", "The request cannot be read."),
    "401": (
        "Name and password are wrong or missing",
        "not_authenticated",
        "Authentication credentials were not provided.",
    ),
    "403": (
        "Not allowed",
        "permission_denied",
        "You do not have permission to perform this action.",
    ),
    "404": ("Resource doesn't exist", "not_found", "There is nothing at this path."),
    "408": (
        "The body came too slowly",
        "body_too_slow",
        "Nothing of the body came for 30 s.",
    ),
    "409": (
        "Not possible in this state",
        "already_ended",
        "The job has ended already: completed (succeeded). The model was registered.",
    ),
    "413": ("Body too large", "body_too_large", "The body is larger than 16 MiB."),
    "415": (
        "Body of a type that cannot be read",
        "unsupported_media_type",
        "A body of type application/xml cannot be read; "
        "send JSON with the header Content-Type: application/json.",
    ),
    "416": (
        "The range begins behind the end of the log",
        "range_not_satisfiable",
        "The log has 120 bytes so far.",
    ),
    "422": (
        "Understood, but not possible: the key belongs to another request, a feature has no value",
        "idempotency_key_reused",
        "This Idempotency-Key was sent before, with another request.",
    ),
    "429": (
        "A limit is reached; `limit` names it, `Retry-After` says when to try again",
        "too_many_jobs",
        "5000 jobs are waiting already, and no more are accepted.",
    ),
    "500": ("Internal error", "internal_error", INTERNAL_DETAIL),
    "503": (
        "Not possible now: `Retry-After` says in how many seconds to try again",
        "registry_unavailable",
        "MLflow does not answer.",
    ),
}
# What any operation may answer: an error of ours, and a database that is away.
ALWAYS = ("500", "503")


class FieldErrorSerializer(serializers.Serializer):
    """One place of the request that is wrong."""

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
    limit = serializers.CharField(
        required=False, help_text="The limit that is reached; `/mlops/training/limits` has all."
    )
    errors = FieldErrorSerializer(  # type: ignore[assignment]
        many=True, required=False, help_text="One entry a field."
    )


class ProblemAutoSchema(AutoSchema):
    """Adds the problems that a view names in `problem_codes`, and those that each can give.

    They are the same for all its methods, or a mapping from each.
    """

    def _get_response_bodies(
        self, direction: Literal["request", "response"] = "response"
    ) -> dict[str, Any]:
        bodies = super()._get_response_bodies(direction)
        for code in sorted({*self._problem_codes(), *ALWAYS} - set(bodies)):
            bodies[code] = self._get_response_for_code(
                self._problem(code), code, media_types=[PROBLEM_TYPE], direction=direction
            )
        return bodies

    def _problem_codes(self) -> Sequence[str]:
        named = getattr(self.view, "problem_codes", ())
        return named.get(self.method, ()) if isinstance(named, Mapping) else named

    def _problem(self, code: str) -> OpenApiResponse:
        description, name, detail = PROBLEMS[code]
        own = [example for example in self.get_examples() if code in (example.status_codes or ())]
        path = _plain(self.path)
        body = problem_document(status=int(code), detail=detail, code=name, instance=path)
        example = OpenApiExample(
            str(body["title"]), value=body, response_only=True, status_codes=[code]
        )
        return OpenApiResponse(
            ProblemSerializer, description=description, examples=[] if own else [example]
        )


def document_plain_paths(endpoints: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Both `/x` and `/x/` are served; the documentation shows the contract's form."""
    return [(_plain(path), *rest) for path, *rest in endpoints]


def _plain(path: str) -> str:
    return path.replace("/?", "").rstrip("/") or "/"
