"""Errors as `application/problem+json` (RFC 9457), for every room and inside no request cycle."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson

CONTENT_TYPE = "application/problem+json"
INTERNAL_DETAIL = "Something went wrong on our side. The operator finds the cause in the log."
DATABASE_CODE = "database_unavailable"
DATABASE_DETAIL = "The database does not answer now; nothing was done."
DATABASE_HINT = "Try again in a few seconds; GET /mlops/ready says when it is back."
DATABASE_RETRY_SECONDS = 5
Answer = tuple[int, dict[str, str], bytes]


def problem_document(
    *,
    status: int,
    code: str,
    detail: str,
    instance: str,
    errors: Sequence[dict[str, str]] = (),
    hint: str = "",
    limit: str = "",
) -> dict[str, Any]:
    """The members of a problem document; `detail` is the contract's own field.

    `limit` names the limit that stopped the request, as `GET /mlops/training/limits` does.
    """
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
    }
    if hint:
        document["hint"] = hint
    if limit:
        document["limit"] = limit
    if errors:
        document["errors"] = list(errors)
    return document


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str,
    errors: Sequence[dict[str, str]] = (),
    hint: str = "",
    retry_after_seconds: int | None = None,
    request_id: str = "",
) -> Answer:
    """Status, headers and body."""
    document = problem_document(
        status=status, code=code, detail=detail, instance=instance, errors=errors, hint=hint
    )
    if request_id:
        document["request_id"] = request_id
    headers = {"content-type": CONTENT_TYPE}
    if retry_after_seconds is not None:
        headers["retry-after"] = str(retry_after_seconds)
    return status, headers, orjson.dumps(document)


def internal_error(*, instance: str, request_id: str = "") -> Answer:
    """For an error that no code expected: it is logged, and nothing of the inside is told."""
    return problem(500, "internal_error", INTERNAL_DETAIL, instance=instance, request_id=request_id)


def database_away(*, instance: str, request_id: str = "") -> Answer:
    """While the database is locked, full or restarting: it will answer again."""
    return problem(
        503,
        DATABASE_CODE,
        DATABASE_DETAIL,
        instance=instance,
        hint=DATABASE_HINT,
        retry_after_seconds=DATABASE_RETRY_SECONDS,
        request_id=request_id,
    )
