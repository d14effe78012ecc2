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
from rest_framework.exceptions import APIException

from inference.held import COUNTED_BYTES, Share
from inference.refusals import Refused, from_api, held_too_much, refusal
from registry.rawhttp.asgi import (
    BodyTooLarge,
    Disconnected,
    MemoryShort,
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
PACKED = {"content-encoding": "gzip", "vary": "Accept-Encoding"}


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


@dataclass(frozen=True)
class Head:
    """What a request is called by."""

    path: str
    request_id: str


Handler = Callable[[Request], Awaitable[Answer]]


async def answer_request(scope: Scope, receive: Receive, send: Send, handler: Handler) -> None:
    """Reads, has it answered, and sends. Whatever happens, the client gets one answer."""
    headers = dict(scope["headers"])
    request_id = new_id(headers)
    path = scope["path"]
    with Share() as share:
        try:
            with _Watch(receive) as watch:
                watch.expect_body()
                body = await _body(scope, receive, headers, share)
                watch.expect_to_stay()
                request = Request(scope["method"], path, headers, body, request_id)
                answer = await handler(request)
            if watch.error is None:
                answer = _held(await _packed(answer, headers), share)
            else:
                answer = failure_answer(watch.error, path=path, request_id=request_id)
        except Disconnected:
            note_left(request_id)
            return
        except Refused as refused:
            answer = failure_answer(refused, path=path, request_id=request_id)
        await send_noted(send, answer, path=path, request_id=request_id)


async def send_long(
    send: Send, answer: Answer, share: Share, headers: dict[bytes, bytes], head: Head
) -> None:
    """An answer that is ready, and too long to be written in one piece; `share` ends with it."""
    with share:
        try:
            answer = _held(await _packed(answer, headers), share)
        except Refused as refused:
            answer = failure_answer(refused, path=head.path, request_id=head.request_id)
        await send_noted(send, answer, path=head.path, request_id=head.request_id)


def noted(answer: Answer, headers: dict[bytes, bytes], head: Head) -> Answer:
    """A short answer as it is sent: packed, with its id, and in the log where it went wrong."""
    status, told, content = _packed_now(answer, headers)
    _note(answer, head.path, head.request_id)
    told["x-request-id"] = head.request_id
    return status, told, content


def note_left(request_id: str) -> None:
    log.info("inference.client_left request_id=%s", request_id)


def new_id(headers: dict[bytes, bytes]) -> str:
    """The client's own, where it is one that a log can hold."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


async def _body(scope: Scope, receive: Receive, headers: dict[bytes, bytes], share: Share) -> bytes:
    """Counted as it comes: who sends slowly holds what he sent. Raises Disconnected, Refused."""
    most = settings.INFERENCE_MAX_BYTES
    try:
        body = await read_body(scope, receive, max_bytes=most, reserve=share.take)
    except BodyTooLarge as error:
        raise _too_large(most) from error
    except MemoryShort as error:
        raise held_too_much() from error
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding not in (b"gzip", b"x-gzip"):
        name = coding.decode("latin-1")[:40]
        told = f"A body with Content-Encoding: {name} cannot be read; gzip can."
        raise refusal(415, "unknown_encoding", told)
    plain = _unpacked(body, most)
    if not share.take(len(plain)):
        raise held_too_much()
    return plain


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


class _Watch:
    """Cancels the task that makes it when the client is gone or too slow; keeps what was raised.

    Whether the client is there is looked at late: most answers are there sooner, and a look costs
    a task.
    """

    def __init__(self, receive: Receive) -> None:
        self.error: BaseException | None = None
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._why: Exception | None = None

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._stop()
        if self._why is not None and self._task is not None and self._task.uncancel() == 0:
            error = self._why
        self.error = error
        return isinstance(error, Exception)

    def expect_body(self) -> None:
        seconds = settings.INFERENCE_BODY_SECONDS
        self._timer = self._loop.call_later(seconds, self._end, _too_slow(seconds))

    def expect_to_stay(self) -> None:
        self._stop()
        self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._begin)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _begin(self) -> None:
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(Disconnected())

    def _end(self, why: Exception) -> None:
        self._why = why
        if self._task is not None:
            self._task.cancel()


def _too_slow(seconds: int) -> Refused:
    return refusal(408, "body_too_slow", f"The body did not come within {seconds} s.")


def failure_answer(error: BaseException, *, path: str, request_id: str) -> Answer:
    """The one problem that a client is told. Raises Disconnected: nobody is there to be told."""
    if isinstance(error, Disconnected):
        raise error
    if isinstance(error, APIException):
        error = from_api(error)
    if isinstance(error, Refused):
        return error.problem.answer(instance=path, request_id=request_id)
    if isinstance(error, OperationalError | InterfaceError):
        log.error("inference.database_away request_id=%s %s", request_id, error)
        return database_away(instance=path, request_id=request_id)
    log.error("inference.unexpected_error request_id=%s", request_id, exc_info=error)
    return internal_error(instance=path, request_id=request_id)


def _held(answer: Answer, share: Share) -> Answer:
    """A long answer is held until its client has read it. Raises Refused."""
    if len(answer[2]) > COUNTED_BYTES and not share.take(len(answer[2])):
        raise held_too_much()
    return answer


async def send_noted(
    send: Send, answer: Answer, *, path: str, request_id: str, head_only: bool = False
) -> None:
    """With its id, and a line in the log where it went wrong."""
    _note(answer, path, request_id)
    answer[1]["x-request-id"] = request_id
    await send_answer(send, answer, head_only=head_only)


def _note(answer: Answer, path: str, request_id: str) -> None:
    """Only what went wrong: a line for each prediction would cost more than the prediction."""
    status = answer[0]
    if status >= 500:
        log.warning("inference.failed status=%s path=%s request_id=%s", status, path, request_id)
    elif status >= 400:
        log.info("inference.refused status=%s path=%s request_id=%s", status, path, request_id)


async def _packed(answer: Answer, headers: dict[bytes, bytes]) -> Answer:
    status, told, content = answer
    if len(content) < PACKED_ASIDE_BYTES or not _takes_gzip(headers.get(b"accept-encoding", b"")):
        return _packed_now(answer, headers)
    told = {**told, **PACKED}
    return status, told, await asyncio.to_thread(gzip.compress, content, PACK_LEVEL)


def _packed_now(answer: Answer, headers: dict[bytes, bytes]) -> Answer:
    status, told, content = answer
    wanted = PACKED_FROM_BYTES <= len(content) < PACKED_ASIDE_BYTES
    if not wanted or not _takes_gzip(headers.get(b"accept-encoding", b"")):
        return answer
    return status, {**told, **PACKED}, gzip.compress(content, PACK_LEVEL)


def _takes_gzip(accepted: bytes) -> bool:
    for entry in accepted.lower().split(b","):
        name, _, weight = entry.partition(b";")
        if name.strip() == b"gzip":
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0")
    return False
