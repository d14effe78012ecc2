"""The web process: what may be held goes to raw ASGI handlers, all else to Django in threads.

Django's own ASGI handler answers 4-5 times fewer requests than Django behind `a2wsgi`, and a raw
handler lets a request wait, for a cold model or for a job, without holding a thread.
"""

import asyncio
import gc
import json
from typing import Any, cast

from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.urls import get_resolver

from mlops_site.wsgi import application as django_application
from registry.rawhttp.asgi import (
    BodyTooLarge,
    Disconnected,
    Receive,
    Scope,
    Send,
    read_body,
    send_answer,
)

# After Django's set-up: the handlers read models.
from inference import gateway  # isort: skip
from inference.asgi import handler_of  # isort: skip
from inference.batch import door as batch_door  # isort: skip
from inference.door import answer_request  # isort: skip
from inference.lookup import LOOKUPS  # isort: skip
from inference.prediction_tallies import TALLIES  # isort: skip
from mlops_site.connections import Connection  # isort: skip
from mlops_site.door import refusal  # isort: skip
from mlops_site.problems import CONTENT_TYPE, TooLarge, problem_document  # isort: skip
from mlops_site.short_way import Predictions  # isort: skip
from training import asgi as following  # isort: skip

DJANGO_THREADS = 8
LENGTH_HEADERS = (b"content-length", b"transfer-encoding")
_django = WSGIMiddleware(cast(Any, django_application), workers=DJANGO_THREADS)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["type"] != "http":
        return
    refused = refusal(scope)
    if refused is not None:
        await _send_problem(refused, send)
        return
    handler = handler_of(scope)
    if handler is not None:
        await answer_request(scope, receive, send, handler)
        return
    batch_app = batch_door.app_of(scope)
    if batch_app is not None:
        await batch_app(scope, receive, send)
        return
    if following.is_followed(scope):
        await following.following_app(scope, receive, send)
        return
    await _answer_by_django(scope, receive, send)


async def _answer_by_django(scope: Scope, receive: Receive, send: Send) -> None:
    """The body is read before a thread is taken: a slow client must hold none, and not for ever."""
    try:
        async with asyncio.timeout(settings.INFERENCE_BODY_SECONDS):
            body = await read_body(scope, receive, max_bytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    except Disconnected:
        return
    except TimeoutError:
        await _send_problem(_too_slow(scope), send)
        return
    except BodyTooLarge:
        await _send_problem(_too_large(scope), send)
        return
    await _django(*_with_body(scope, body), send)  # type: ignore[arg-type]


def _with_body(scope: Scope, body: bytes) -> tuple[Scope, Receive]:
    """The request with its length said: WSGI takes a body in chunks, which says none, for none."""
    headers = [(name, value) for name, value in scope["headers"] if name not in LENGTH_HEADERS]
    headers.append((b"content-length", str(len(body)).encode()))
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return {**scope, "headers": headers}, replay


def _too_large(scope: Scope) -> dict[str, Any]:
    error = TooLarge()
    return problem_document(
        status=error.status_code,
        detail=str(error.detail),
        code=error.default_code,
        instance=scope["path"],
        hint=error.hint,
    )


def _too_slow(scope: Scope) -> dict[str, Any]:
    seconds = settings.INFERENCE_BODY_SECONDS
    return problem_document(
        status=408,
        detail=f"The body did not come within {seconds} s.",
        code="body_too_slow",
        instance=scope["path"],
    )


async def _send_problem(document: dict[str, Any], send: Send) -> None:
    content = json.dumps(document).encode()
    await send_answer(send, (document["status"], {"content-type": CONTENT_TYPE}, content))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            gateway.serve()
            LOOKUPS.serve()
            TALLIES.begin()
            Connection.shortcut = Predictions()
            _keep_what_is_loaded()
        if message["type"] == "lifespan.shutdown":
            Connection.shortcut = None
            LOOKUPS.stop()
            await asyncio.to_thread(TALLIES.stop)
            await gateway.close()
            await following.close()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _keep_what_is_loaded() -> None:
    """All of the code, before the first request; no collection of garbage looks through it again.

    One that did took 70 ms, in which no prediction was answered.
    """
    _ = get_resolver().url_patterns
    gc.collect()
    gc.freeze()
