"""Kept HTTP/1.1 connections to model servers: one question at a time each, in bounded memory.

Who answers is a stranger: an answer must say its length, name the question that it is to, and come
within its time; a connection on which anything else came is never used again. No name is resolved,
no redirect followed, nothing unpacked.
"""

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from inference.held import COUNTED_BYTES

# Below the server's own: the side that asks must be the first to drop an idle connection.
KEEP_ALIVE_SECONDS = 30.0
# A container that ended leaves an address where nobody says no: silence must end soon. A busy model
# is not silent, since the kernel of its container acknowledges for it.
SILENCE_SECONDS = 2
IDLE_MOST = 1024
HEAD_BYTES = 16 * 1024
# What is sent with its head in one piece; a longer body is not copied for that.
JOINED_BYTES = 64 * 1024
NUMBER_BYTES = 8
NUMBERS_AT_ONCE = 256
ECHO = b"x-mlops-request"
LENGTH = b"content-length"


class NobodyThere(Exception):
    """Nothing came back: no connection, or one that ended without a byte."""


class AnswerLost(Exception):
    """Something came back, or may still, but no answer that can be passed on."""


class AnswerLate(AnswerLost):
    """It did not come within its time."""


class AnswerBroken(AnswerLost):
    """The connection ended in the middle of it."""


class AnswerStrange(AnswerLost):
    """It is none to this question; the text says why, in words for a log."""


class AnswerTooLarge(AnswerLost):
    """It says that it is longer than one may be."""


class MemoryShort(AnswerLost):
    """All answers together would be more than may be held."""


@dataclass(frozen=True)
class Bounds:
    """Of one answer. `reserve` is asked whether so many bytes more may be held."""

    seconds: float
    answer_bytes: int
    reserve: Callable[[int], bool]


@dataclass(frozen=True)
class Question:
    """A request whose head is complete but for its length and its number."""

    address: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A whole answer; header names are lower case, the last of a repeated one counts."""

    status: int
    headers: dict[bytes, bytes]
    content: bytes | bytearray


Told = Callable[["Reply | Exception"], None]


class Asked:
    """One question under way on one connection."""

    __slots__ = ("_address", "_connection", "_told", "_wire", "number")

    def __init__(
        self, wire: "Wire", connection: "_Connection", address: str, number: bytes, told: Told
    ) -> None:
        self.number = number
        self._wire = wire
        self._connection = connection
        self._address = address
        self._told: Told | None = told

    def hear(self, outcome: Reply | Exception) -> None:
        """What came of it, from the connection."""
        told, self._told = self._told, None
        if told is None:
            return
        if isinstance(outcome, Reply) and not self._wire.settle(
            self._address, self._connection, self.number, outcome
        ):
            outcome = AnswerStrange("an answer to another request")
        told(outcome)

    def give_up(self) -> None:
        """Who asked has gone: an ended connection takes its question out of the queue."""
        if self._told is not None:
            self._told = None
            self._connection.abort()


class Wire:
    """All connections of one event loop."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[_Connection]] = {}
        self._idle_count = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._new_number = _Random().number

    async def ask(self, question: Question, bounds: Bounds) -> Reply:
        """One answer to one question.

        A kept connection that ends without a byte was closed while nobody looked: the question is
        asked once more, on a new one. Raises NobodyThere and AnswerLost.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + bounds.seconds
        kept = self._take(question.address)
        if kept is not None:
            try:
                return await self._exchange(kept, question, bounds, deadline)
            except NobodyThere:
                self.lose(question.address)
        fresh = await _connected(question.address, min(SILENCE_SECONDS, bounds.seconds))
        return await self._exchange(fresh, question, bounds, deadline)

    def ask_kept(self, question: Question, bounds: Bounds, told: Told) -> "Asked | None":
        """As `ask`, without a task, and on a kept connection only: None where there is none.

        `told` is called later, once, with the answer or with what `ask` would raise.
        """
        connection = self._take(question.address)
        if connection is None:
            return None
        asked = Asked(self, connection, question.address, self._new_number(), told)
        deadline = asyncio.get_running_loop().time() + bounds.seconds
        connection.ask(question, asked.number, bounds, deadline, asked.hear)
        return asked

    async def close(self) -> None:
        for address in list(self._idle):
            self._drop(address)
        if self._sweep is not None:
            self._sweep.cancel()

    async def _exchange(
        self, connection: "_Connection", question: Question, bounds: Bounds, deadline: float
    ) -> Reply:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Reply] = loop.create_future()

        def told(outcome: Reply | Exception) -> None:
            if answered.done():
                return
            if isinstance(outcome, Reply):
                answered.set_result(outcome)
            else:
                answered.set_exception(outcome)

        asked = Asked(self, connection, question.address, self._new_number(), told)
        connection.ask(question, asked.number, bounds, deadline, asked.hear)
        try:
            return await answered
        finally:
            asked.give_up()

    def settle(self, address: str, connection: "_Connection", number: bytes, reply: Reply) -> bool:
        """Whether the answer is to this question; then its connection may be used again."""
        if reply.headers.get(ECHO) != number:
            connection.abort()
            return False
        self._keep(address, connection)
        return True

    def lose(self, address: str) -> None:
        """A kept connection ended without a byte: those beside it did, too."""
        self._drop(address)

    # -- connections that nobody uses now
    def _take(self, address: str) -> "_Connection | None":
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.usable:
                return connection
        return None

    def _keep(self, address: str, connection: "_Connection") -> None:
        if not connection.usable or self._idle_count >= IDLE_MOST:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(address, deque()).append(connection)
        self._idle_count += 1
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS / 2, self._end_idle)

    def _end_idle(self) -> None:
        """Those that were used last stay at the right end."""
        loop = asyncio.get_running_loop()
        for address, idle in list(self._idle.items()):
            while idle and (
                not idle[0].usable or loop.time() - idle[0].idle_since > KEEP_ALIVE_SECONDS
            ):
                idle.popleft().abort()
                self._idle_count -= 1
            if not idle:
                del self._idle[address]
        again = bool(self._idle)
        self._sweep = loop.call_later(KEEP_ALIVE_SECONDS / 2, self._end_idle) if again else None

    def _drop(self, address: str) -> None:
        """One that ended unseen was not alone: its server went."""
        idle = self._idle.pop(address, deque())
        self._idle_count -= len(idle)
        for connection in idle:
            connection.abort()


async def _connected(address: str, seconds: float) -> "_Connection":
    """Raises NobodyThere."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    made = _socket()
    try:
        async with asyncio.timeout(seconds):
            await loop.sock_connect(made, (host, int(port)))
            _, connection = await loop.create_connection(_Connection, sock=made)
    except (OSError, ValueError) as error:
        made.close()
        raise NobodyThere from error
    except BaseException:
        made.close()
        raise
    return connection


class _Random:
    """Numbers that nobody can guess; the kernel is asked for many at a time. Of one thread."""

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def number(self) -> bytes:
        if not self._left:
            content = secrets.token_hex(NUMBER_BYTES * NUMBERS_AT_ONCE).encode()
            width = 2 * NUMBER_BYTES
            self._left = [content[at : at + width] for at in range(0, len(content), width)]
        return self._left.pop()


def _socket() -> socket.socket:
    """One that ends when what was sent stays unacknowledged."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
    return made


class _Connection(asyncio.Protocol):
    """One connection; whoever has it asks, and nobody else."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._usable = True
        self._told: Told | None = None
        self._bounds: Bounds | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._begin()

    def _begin(self) -> None:
        self._head_bytes = 0
        self._in_body = False
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._outcome: Reply | Exception | None = None

    @property
    def usable(self) -> bool:
        return self._usable

    def ask(
        self, question: Question, number: bytes, bounds: Bounds, deadline: float, told: Told
    ) -> None:
        """`told` is called once, later: with the answer, or with why there is none."""
        assert self._transport is not None  # noqa: S101 (a connection is made before it is used)
        self._begin()
        self._bounds = bounds
        self._told = told
        self._expect(deadline)
        head = b"%bcontent-length: %d\r\n%b: %b\r\n\r\n" % (
            question.head,
            len(question.body),
            ECHO,
            number,
        )
        if len(question.body) <= JOINED_BYTES:
            self._transport.write(head + question.body)
        else:
            self._transport.writelines((head, question.body))

    def _expect(self, deadline: float) -> None:
        """One timer for many questions: it looks when it fires what it is for by then."""
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        if self._told is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._look_at_time)
        else:
            self._fail(AnswerLate())

    def abort(self) -> None:
        self._usable = False
        self._told = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        """Whoever waits hears it; without one it is the connection's end alone."""
        told = self._told
        self.abort()
        if told is not None:
            told(error)

    # -- what asyncio calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        begun = self._head_bytes or self._in_body
        self._fail(AnswerBroken() if begun else NobodyThere())

    def data_received(self, data: bytes) -> None:
        if self._told is None:
            # Nobody asked.
            self.abort()
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._usable = False
            self._outcome = self._outcome or AnswerStrange("no HTTP")
        if not self._in_body and self._head_bytes > HEAD_BYTES:
            self._refuse(AnswerStrange("a head without end"))
        self._tell()

    def _tell(self) -> None:
        """Only when all that came was looked at: there may be more in it than one answer."""
        outcome = self._outcome
        if outcome is None:
            return
        if not isinstance(outcome, Reply):
            self._fail(outcome)
            return
        told, self._told = self._told, None
        if not self._usable:
            self.abort()
        if told is not None:
            told(outcome)

    def _refuse(self, error: Exception) -> None:
        """From inside the parser, which would take what is raised there for an error of its own."""
        self._usable = False
        self._outcome = self._outcome or error

    # -- what httptools calls
    def on_message_begin(self) -> None:
        if self._in_body:
            # More than one answer.
            self._usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._in_body or self._bounds is None:
            return
        self._in_body = True
        told = self._headers.get(LENGTH)
        if told is None:
            self._refuse(AnswerStrange("an answer without a length"))
        elif int(told) > self._bounds.answer_bytes:
            self._refuse(AnswerTooLarge())
        elif int(told) > COUNTED_BYTES and not self._bounds.reserve(int(told)):
            self._refuse(MemoryShort())

    def on_body(self, part: bytes) -> None:
        """One piece is kept as it is; of many small ones no list is made."""
        if not self._usable:
            return
        if not self._body:
            self._body = part
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += part

    def on_message_complete(self) -> None:
        if not self._usable or self._told is None:
            return
        self._usable = self._parser.should_keep_alive()
        self._outcome = Reply(self._parser.get_status_code(), self._headers, self._body)
