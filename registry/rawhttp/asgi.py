"""Small steps of a raw ASGI handler: read the request, answer it, notice that the client left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from registry.rawhttp.problems import Answer

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
PIECE_BYTES = 1024 * 1024
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request without a body. Header names are lower case; of a repeated parameter the last."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def head_only(self) -> bool:
        return self.method == "HEAD"

    def accepts(self, media_type: str) -> bool:
        """Whether the client names this very type; `*/*` is no wish for it."""
        wanted = self.headers.get("accept", "").split(",")
        return any(entry.partition(";")[0].strip().lower() == media_type for entry in wanted)


def read_request(scope: Scope) -> Asked:
    """What was asked for. A header that came several times is joined by commas, as HTTP has it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return Asked(scope["method"], scope["path"], dict(query), headers)


class BodyTooLarge(Exception):
    """The client sends, or says that it will send, more than is taken."""


class Disconnected(Exception):
    """The client went away before its request was complete."""


class MemoryShort(Exception):
    """The body is not larger than one may be, but all together are."""


def _any_size(size: int) -> bool:
    return True


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    max_bytes: int,
    reserve: Callable[[int], bool] = _any_size,
) -> bytes:
    """The whole body. `reserve` is asked for each part whether so much more may be held.

    Raises BodyTooLarge as soon as it is known to be, MemoryShort, and Disconnected.
    """
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) + len(part) > max_bytes:
            raise BodyTooLarge
        if not reserve(len(part)):
            raise MemoryShort
        if not more and not body:
            return bytes(part)
        body += part
    return bytes(body)


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    """Sends the head of an answer whose body follows in pieces."""
    listed = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})


async def send_answer(send: Send, answer: Answer, *, head_only: bool = False) -> None:
    """Sends a whole answer. To HEAD goes the length that the body would have."""
    status, headers, content = answer
    length = {} if status in (204, 304) else {"content-length": str(len(content))}
    await start(send, status, {**headers, **length})
    await _send_body(send, b"" if head_only else content)


async def _send_body(send: Send, content: bytes) -> None:
    """In pieces: `send` waits until the client has read most of what went before."""
    last = max(0, len(content) - 1) // PIECE_BYTES * PIECE_BYTES
    for at in range(0, last, PIECE_BYTES):
        piece = content[at : at + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": content[last:]})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, and cancels it as soon as the client is gone. Raises what `work` raises."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        leaving.cancel()
        # Whatever `work` holds is given back before this returns.
        await asyncio.wait({working, leaving})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
