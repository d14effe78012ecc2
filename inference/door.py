"""What every raw request to a model goes through: its id, its body, its client, its answer's size.

A body is bounded before and after it is unpacked, and in the time it may take to come; a client
that goes away takes its request along.
"""

import asyncio
import gzip
import logging
import re
import secrets
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from django.conf import settings
from django.db import InterfaceError, OperationalError

from inference.refusals import Refused, refusal
from registry.rawhttp.asgi import (
    BodyTooLarge,
    Disconnected,
    Receive,
    Scope,
    Send,
    read_body,
    send_answer,
)
from registry.rawhttp.problems import Answer, database_away, internal_error

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\w.:-]{1,80}")
# Shorter answers are there before anybody can have gone away.
WATCH_AFTER_SECONDS = 0.05
PACKED_FROM_BYTES = 1400
# Longer ones are packed beside the event loop.
PACKED_ASIDE_BYTES = 64 * 1024
PACK_LEVEL = 1


@dataclass(frozen=True)
class Request:
    """One request with its whole body, unpacked."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    request_id: str

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")


Handler = Callable[[Request], Awaitable[Answer]]


async def answer_request(scope: Scope, receive: Receive, send: Send, handler: Handler) -> None:
    """Reads, has it answered, and sends. Whatever happens, the client gets one answer."""
    headers = dict(scope["headers"])
    request_id = new_id(headers)
    path = scope["path"]
    try:
        body = await _body(scope, receive, headers)
        request = Request(scope["method"], path, headers, body, request_id)
        answer = await _while_there(receive, request, handler)
    except Disconnected:
        log.info("inference.client_left request_id=%s", request_id)
        return
    except Refused as refused:
        answer = refused.problem.answer(instance=path, request_id=request_id)
    _note(answer, path, request_id)
    answer[1]["x-request-id"] = request_id
    await send_answer(send, await _packed(answer, headers))


def new_id(headers: dict[bytes, bytes]) -> str:
    """The client's own, where it is one that a log can hold."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


async def _body(scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """Raises Disconnected and Refused."""
    most = settings.INFERENCE_MAX_BYTES
    try:
        async with asyncio.timeout(settings.INFERENCE_BODY_SECONDS):
            body = await read_body(scope, receive, max_bytes=most)
    except BodyTooLarge as error:
        raise _too_large(most) from error
    except TimeoutError as error:
        raise refusal(
            408,
            "body_too_slow",
            f"The body did not come within {settings.INFERENCE_BODY_SECONDS} s.",
        ) from error
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding not in (b"gzip", b"x-gzip"):
        name = coding.decode("latin-1")[:40]
        told = f"A body with Content-Encoding: {name} cannot be read; gzip can."
        raise refusal(415, "unknown_encoding", told)
    return _unpacked(body, most)


def _unpacked(body: bytes, most: int) -> bytes:
    """A bomb is not unpacked further than a body may be long. Raises Refused."""
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = inflating.decompress(body, most + 1)
    except zlib.error as error:
        raise refusal(400, "invalid_gzip", "The body is not gzip.") from error
    if len(plain) > most:
        raise _too_large(most)
    if not inflating.eof:
        raise refusal(400, "invalid_gzip", "The gzip body is cut off.")
    return plain


def _too_large(most: int) -> Refused:
    return refusal(
        413,
        "body_too_large",
        f"The body is larger than {most // (1024 * 1024)} MiB.",
        hint="Send fewer rows at a time.",
    )


async def _while_there(receive: Receive, request: Request, handler: Handler) -> Answer:
    """Raises Disconnected as soon as the client is gone; the work is given up then.

    Its watch begins late: most answers are there sooner, and a watch costs a task. An error that
    nobody foresaw is logged and stays anonymous.
    """
    with _Watch(receive) as watch:
        return await handler(request)
    return _failed(watch.error, request)


class _Watch:
    """Cancels the task that makes it once the client is gone; keeps what its block raised."""

    def __init__(self, receive: Receive) -> None:
        self.error: BaseException | None = None
        self._receive = receive
        self._task = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None
        self._left = False
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._begin)

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._left and self._task is not None and self._task.uncancel() == 0:
            error = Disconnected()
        self.error = error
        return isinstance(error, Exception)

    def _begin(self) -> None:
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._task is not None:
            self._task.cancel()


def _failed(error: BaseException | None, request: Request) -> Answer:
    """Raises Refused and Disconnected, which are no failure."""
    if isinstance(error, Refused | Disconnected):
        raise error
    if isinstance(error, OperationalError | InterfaceError):
        log.error("inference.database_away request_id=%s %s", request.request_id, error)
        return database_away(instance=request.path, request_id=request.request_id)
    log.error("inference.unexpected_error request_id=%s", request.request_id, exc_info=error)
    return internal_error(instance=request.path, request_id=request.request_id)


def _note(answer: Answer, path: str, request_id: str) -> None:
    """Only what went wrong: a line for each prediction would cost more than the prediction."""
    status = answer[0]
    if status >= 500:
        log.warning("inference.failed status=%s path=%s request_id=%s", status, path, request_id)
    elif status >= 400:
        log.info("inference.refused status=%s path=%s request_id=%s", status, path, request_id)


async def _packed(answer: Answer, headers: dict[bytes, bytes]) -> Answer:
    status, told, content = answer
    if len(content) < PACKED_FROM_BYTES or not _takes_gzip(headers.get(b"accept-encoding", b"")):
        return answer
    told = {**told, "content-encoding": "gzip", "vary": "Accept-Encoding"}
    if len(content) < PACKED_ASIDE_BYTES:
        return status, told, gzip.compress(content, PACK_LEVEL)
    return status, told, await asyncio.to_thread(gzip.compress, content, PACK_LEVEL)


def _takes_gzip(accepted: bytes) -> bool:
    for entry in accepted.lower().split(b","):
        name, _, weight = entry.partition(b";")
        if name.strip() == b"gzip":
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0")
    return False
