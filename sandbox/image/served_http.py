"""HTTP/1.1 for one trusted caller over kept connections; it knows no model and blocks for nobody.

The caller is the platform's gateway. A request is handed on when it is whole; an answer is given
once, in the order of the requests; whoever closed the connection meanwhile is `gone`.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_PIPELINED = 16
MAX_HEADERS = 100
ECHOED = b"x-mlops-request"
REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    413: b"Content Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


@dataclass(frozen=True)
class Reply:
    """What goes back; `headers` are beside length and type."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(eq=False)
class Exchange:
    """A whole request, and the way back to whoever sent it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    arrived: float
    _connection: "Connection"

    @property
    def gone(self) -> bool:
        """Nobody waits for an answer any more."""
        return self._connection.closed

    def answer(self, reply: Reply) -> None:
        """Only in the event loop's thread, and once."""
        self._connection.answer(self, reply)

    def answer_past_loop(self, reply: Reply) -> None:
        """From another thread, where the loop does not come back and the process ends next."""
        self._connection.answer_past_loop(self, reply)


Handler = Callable[[Exchange], None]


class Connection(asyncio.Protocol):
    """One kept connection; requests of it are answered one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._clock = time.monotonic
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._waiting: deque[Exchange] = deque()
        self._begin()
        self.closed = False

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._too_large = False

    # -- what asyncio calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(400, "invalid_http", "This is no HTTP/1.1 request.")

    # -- what httptools calls
    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) < MAX_HEADERS:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect") == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._body += part
        if len(self._body) > MAX_BODY_BYTES:
            self._too_large = True
            self._refuse(413, "body_too_large", f"At most {MAX_BODY_BYTES} bytes are read.")

    def on_message_complete(self) -> None:
        if self._too_large or self.closed:
            return
        if len(self._waiting) >= MAX_PIPELINED:
            self._transport.abort()
            return
        exchange = Exchange(
            method=self._parser.get_method().decode(),
            path=self._url.decode(errors="replace").partition("?")[0],
            headers=self._headers,
            body=bytes(self._body),
            arrived=self._clock(),
            _connection=self,
        )
        self._begin()
        self._waiting.append(exchange)
        if len(self._waiting) == 1:
            self._handler(exchange)

    # -- what we do
    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if self.closed or not self._waiting or self._waiting[0] is not exchange:
            return
        self._write(reply, exchange.headers.get(ECHOED))
        self._waiting.popleft()
        if self._waiting:
            self._handler(self._waiting[0])

    def answer_past_loop(self, exchange: Exchange, reply: Reply) -> None:
        if self.closed or not self._waiting or self._waiting[0] is not exchange:
            return
        socket = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            os.write(socket.fileno(), _written(reply, exchange.headers.get(ECHOED)))

    def _write(self, reply: Reply, echo: bytes | None = None) -> None:
        self._transport.write(_written(reply, echo))

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """What cannot be answered in its turn: said once, and the connection ends."""
        if self.closed:
            return
        body = b'{"code":"%b","detail":"%b","errors":[]}' % (code.encode(), detail.encode())
        self._write(Reply(status, body, {"connection": "close"}), self._headers.get(ECHOED))
        self.closed = True
        self._waiting.clear()
        self._transport.close()


def _written(reply: Reply, echo: bytes | None) -> bytes:
    reason = REASONS.get(reply.status, b"Unknown")
    more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (
        reply.status,
        reason,
        reply.content_type.encode(),
        len(reply.body),
        more.encode(),
    )
    if echo is not None:
        # By it the gateway sees that an answer is to its own question.
        head = head[:-2] + ECHOED + b": " + echo + b"\r\n\r\n"
    return head + reply.body
