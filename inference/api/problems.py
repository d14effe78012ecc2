"""Errors of predictions as `application/problem+json`, outside Django's request cycle.

The raw handler runs no middleware and no DRF exception handler, and this room may not import the
site's; the members are the same.
"""

from collections.abc import Sequence
from http import HTTPStatus

import orjson

CONTENT_TYPE = "application/problem+json"
PATH = "/mlops/inference"
Answer = tuple[int, dict[str, str], bytes]


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[dict[str, str]] = (),
    hint: str = "",
    retry_after_seconds: int | None = None,
) -> Answer:
    """Status, headers and body."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": PATH,
        "code": code,
    }
    if hint:
        document["hint"] = hint
    if errors:
        document["errors"] = list(errors)
    headers = {"content-type": CONTENT_TYPE}
    if retry_after_seconds is not None:
        headers["retry-after"] = str(retry_after_seconds)
    return status, headers, orjson.dumps(document)
