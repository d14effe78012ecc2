"""The web server's side of one client's connection: bounded for who sends or reads slowly.

uvicorn has no bound for how long a request's head takes to come, how long it is, and how long a
client may take to read. Named by `uvicorn --http mlops_site.connections:Connection`.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
# A client that waits for its answer takes so much of it in that time, or is gone.
READ_SECONDS = 30.0
READ_BYTES = 16 * 1024
JOINED_BYTES = 64 * 1024
# Some clients send the head alone, and the body right after it.
GATHER_SECONDS = 0.05
Headers = dict[bytes, bytes]
Answer = tuple[int, dict[str, str], bytes]
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Outcome(Protocol):
    """An answer, whole or as the ASGI application that sends it."""

    @property
    def is_long(self) -> bool: ...

    def whole(self) -> Answer: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Shortcut(Protocol):
    """Answers some requests past ASGI; see `mlops_site.short_way`."""

    def takes(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Headers | None: ...

    def begin(
        self, headers: Headers, body: bytes, told: "Callable[[Any], None]"
    ) -> Callable[[], None] | None: ...


class _Short:
    """A request past ASGI, where uvicorn keeps the cycle of the one that is being answered."""

    def __init__(self, scope: Any, url: bytes, headers: Headers, *, keep_alive: bool) -> None:
        self.scope = scope
        self.url = url
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = b""
        self.gathered = False
        self.response_complete = False
        self.disconnected = False
        self.leave: Callable[[], None] | None = None
        # What uvicorn wakes when the client has gone: nobody sleeps here.
        self.message_event = self

    def set(self) -> None:
        return


class Connection(HttpToolsProtocol):
    """uvicorn's own, with an end to every wait for the client, and a short way past ASGI."""

    shortcut: ClassVar[Shortcut | None] = None
    _short: _Short | None = None
    _gather_timer: asyncio.TimerHandle | None = None
    _defaults: tuple[Any, bytes] = (None, b"")
    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._read_timer, self._gather_timer):
            if timer is not None:
                timer.cancel()
        short, self._short = self._short, None
        if short is not None and short.leave is not None:
            short.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            # More of a head, of a body that nobody reads any more, or of nothing.
            self._expect_head()
        elif self._short is not None and not self._short.gathered and self._gather_timer is None:
            self._gather_timer = self.loop.call_later(GATHER_SECONDS, self._gathers_no_more)

    # -- what httptools calls
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if not self._begins_short():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._short is not None and not self._short.gathered:
            self._short.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        short = self._short
        if short is None or short.gathered:
            super().on_message_complete()
            return
        self._end_gathering(short)
        assert self.shortcut is not None  # noqa: S101 (it took the request)
        short.leave = self.shortcut.begin(
            short.headers, short.body, lambda outcome: self._hear(short, outcome)
        )
        if short.leave is None:
            self._take_long_way(short, self.app, more_body=False)

    # -- the short way
    def _begins_short(self) -> bool:
        """Only where no other request of the connection waits for its answer."""
        if self.shortcut is None or self.config.access_log or self.root_path:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return False
        headers = self.shortcut.takes(self.url, self.headers)
        if headers is None:
            return False
        keep_alive = self.parser.should_keep_alive()
        self._short = _Short(self.scope, self.url, headers, keep_alive=keep_alive)
        self.cycle = cast(RequestResponseCycle, self._short)
        return True

    def _end_gathering(self, short: _Short) -> None:
        short.gathered = True
        if self._gather_timer is not None:
            self._gather_timer.cancel()
            self._gather_timer = None

    def _gathers_no_more(self) -> None:
        """A body that comes slowly is the long way's business."""
        self._gather_timer = None
        if self._short is not None and not self._short.gathered:
            self._take_long_way(self._short, self.app, more_body=True)

    def _hear(self, short: _Short, outcome: Outcome | None) -> None:
        if self._short is not short:
            return
        if outcome is None:
            self._take_long_way(short, self.app, more_body=False)
        elif outcome.is_long or self.flow.write_paused:
            self._take_long_way(short, outcome, more_body=False)
        else:
            self._answer_short(short, outcome.whole())

    def _take_long_way(self, short: _Short, app: Any, *, more_body: bool) -> None:
        """As uvicorn begins a request, with what came of its body until now."""
        self._short = None
        short.scope |= {"method": "POST", "query_string": b""}
        short.scope |= {"path": short.url.decode("ascii"), "raw_path": short.url}
        cycle = RequestResponseCycle(
            scope=short.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=short.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body, cycle.more_body = bytearray(short.body), more_body
        if short.body or not more_body:
            cycle.message_event.set()
        if self.cycle is cast(RequestResponseCycle, short):
            self.cycle = cycle
        self._start_asgi_task(cycle, app)

    def _answer_short(self, short: _Short, answer: Answer) -> None:
        """Head and body in one piece."""
        status, told, content = answer
        told["content-length"] = str(len(content))
        head = "".join([f"{name}: {value}\r\n" for name, value in told.items()])
        end = b"\r\n" if short.keep_alive else b"connection: close\r\n\r\n"
        whole = (STATUS_LINE[status], self._default_head(), head.encode("latin-1"), end, content)
        cast(Joined, self.transport).write_now(b"".join(whole))
        self._short, short.response_complete = None, True
        if not short.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _default_head(self) -> bytes:
        """uvicorn makes a new list of them each second."""
        listed = self.server_state.default_headers
        if self._defaults[0] is not listed:
            lines = [b"%b: %b\r\n" % (name, value) for name, value in listed]
            self._defaults = (listed, b"".join(lines))
        return self._defaults[1]

    # -- what the transport calls
    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    # -- waits
    def _expect_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _expect_reading(self, waiting: int) -> None:
        self._read_timer = self.loop.call_later(READ_SECONDS, self._look_at_reading, waiting)

    def _look_at_reading(self, before: int) -> None:
        waiting = self.transport.get_write_buffer_size()
        if before - waiting < READ_BYTES:
            # The kernel gives up what it holds, too.
            made = self.transport.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self._expect_reading(waiting)


class Joined:
    """A transport that sends together what is written in one moment.

    uvicorn writes the head of an answer and its body one after the other: two calls of the kernel,
    and a client that wakes twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > JOINED_BYTES:
            self._flush()

    def write_now(self, data: bytes) -> None:
        """A piece that nothing follows in this moment."""
        self._pieces.append(data)
        self._size += len(data)
        self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        pieces, size = self._pieces, self._size
        if not pieces:
            return
        self._pieces, self._size = [], 0
        if self._transport.is_closing():
            return
        if size <= JOINED_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)
