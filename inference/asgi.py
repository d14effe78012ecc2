"""Predictions as a raw ASGI handler: no middleware, no thread held while a model is loading."""

import asyncio
import logging

from django.conf import settings
from django.db import InterfaceError, OperationalError

from inference import gateway
from inference.api.problems import PATH, Answer, problem
from registry.rawhttp.asgi import Receive, Scope, Send, send_answer
from registry.rawhttp.problems import INTERNAL_DETAIL, database_away

log = logging.getLogger(__name__)


class Disconnected(Exception):
    """The client went away before its request was complete."""


async def inference_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers `POST /mlops/inference`, whatever content type the client names."""
    try:
        body = await _read(scope, receive)
    except Disconnected:
        return
    await send_answer(send, _too_large() if body is None else await _answer(body))


async def _answer(body: bytes) -> Answer:
    """An error that nobody foresaw is logged and stays anonymous."""
    task = asyncio.ensure_future(gateway.answer(body))
    await asyncio.wait([task])
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, OperationalError | InterfaceError):
        log.error("inference.database_away %s", error)
        return database_away(instance=PATH)
    log.error("inference.unexpected_error", exc_info=error)
    return problem(500, "internal_error", INTERNAL_DETAIL)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None when it is too large. Raises Disconnected."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > settings.INFERENCE_MAX_BYTES:
        return None
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > settings.INFERENCE_MAX_BYTES:
            return None
    return bytes(body)


def _too_large() -> Answer:
    megabytes = settings.INFERENCE_MAX_BYTES // (1024 * 1024)
    return problem(
        413,
        "body_too_large",
        f"The body is larger than {megabytes} MiB.",
        hint="Send fewer rows at a time.",
    )
