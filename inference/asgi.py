"""Predictions as a raw ASGI handler: no middleware, no thread held while a model is loading."""

import asyncio
import logging

from django.conf import settings
from django.db import InterfaceError, OperationalError

from inference import gateway
from inference.api.problems import PATH, Answer, problem
from registry.rawhttp.asgi import (
    BodyTooLarge,
    Disconnected,
    Receive,
    Scope,
    Send,
    read_body,
    send_answer,
)
from registry.rawhttp.problems import database_away, internal_error

log = logging.getLogger(__name__)


async def inference_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers `POST /mlops/inference`, whatever content type the client names."""
    try:
        body = await read_body(scope, receive, max_bytes=settings.INFERENCE_MAX_BYTES)
    except Disconnected:
        return
    except BodyTooLarge:
        await send_answer(send, _too_large())
        return
    await send_answer(send, await _answer(body))


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
    return internal_error(instance=PATH)


def _too_large() -> Answer:
    megabytes = settings.INFERENCE_MAX_BYTES // (1024 * 1024)
    return problem(
        413,
        "body_too_large",
        f"The body is larger than {megabytes} MiB.",
        hint="Send fewer rows at a time.",
    )
