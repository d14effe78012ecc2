"""The `Idempotency-Key` header (IETF draft 07): a client's own name for one request."""

import hashlib
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus

from rest_framework.exceptions import APIException

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY_MAX_CHARACTERS = 255


class BadIdempotencyKey(APIException):
    status_code = HTTPStatus.BAD_REQUEST
    default_code = "invalid_idempotency_key"
    default_detail = (
        f"Idempotency-Key must have 1 to {KEY_MAX_CHARACTERS} printable ASCII characters."
    )
    hint = "Send something that is yours alone, such as a UUID."


def key_of(headers: Mapping[str, str]) -> str:
    """The key of a request; empty when it has none. Raises BadIdempotencyKey."""
    if HEADER not in headers:
        return ""
    key = headers[HEADER]
    if not 0 < len(key) <= KEY_MAX_CHARACTERS or not (key.isascii() and key.isprintable()):
        raise BadIdempotencyKey
    return key


def hash_of(body: bytes, content_type: str, *, asked: str) -> str:
    """The same for the same request; `asked` says for what, such as `upload` or `rerun` of a job.

    Every client draws a new boundary for each form that it sends, so the boundary does not count:
    the same `curl -F` sent twice is the same request.
    """
    boundary = _boundary(content_type)
    if boundary:
        content_type = content_type.replace(boundary, "")
        body = body.replace(boundary.encode(), b"")
    return hashlib.sha256(b"\0".join((asked.encode(), content_type.encode(), body))).hexdigest()


def _boundary(content_type: str) -> str:
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_maintype() != "multipart":
        return ""
    return message.get_boundary("")
