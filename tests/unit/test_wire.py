"""The connections to model servers: kept, bounded, and believed only as far as they can be."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from inference.wire import (
    HEAD_BYTES,
    AnswerBroken,
    AnswerLate,
    AnswerLost,
    AnswerStrange,
    AnswerTooLarge,
    Bounds,
    MemoryShort,
    NobodyThere,
    Question,
    Wire,
)

MOST = 1_000_000
BODY = b'{"inputs":[[1]]}'
Turn = Callable[["Client"], Awaitable[None]]
Story = Callable[[], Awaitable[None]]


class Client:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.number = b""

    async def request(self) -> bytes:
        """The next request's body. Raises IncompleteReadError when there is none."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"x-mlops-request: (\w+)", head)
        length = re.search(rb"content-length: (\d+)", head)
        assert found and length, head
        self.number = found[1]
        return await self._reader.readexactly(int(length[1]))

    async def say(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def answer(self, content: bytes) -> None:
        await self.say(head_of(self.number, len(content)) + content)

    async def gone(self) -> None:
        """Comes back when the gateway has closed the connection."""
        try:
            while await self._reader.read(1024):
                continue
        except ConnectionError:
            return

    def leave(self) -> None:
        self._writer.close()


def head_of(number: bytes, length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nx-mlops-request: %b\r\ncontent-length: %d\r\n\r\n" % (
        number,
        length,
    )


class Server:
    """Does on each new connection what the next turn says."""

    def __init__(self, *turns: Turn) -> None:
        self._turns = iter(turns)
        self.connections = 0
        self.asked: list[bytes] = []
        self.address = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        turn = next(self._turns)
        try:
            await turn(Client(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def answering(client: Client) -> None:
    while True:
        await client.answer(await client.request())


async def silent(client: Client) -> None:
    await client.request()
    await client.gone()


def bounds(seconds: float = 30, *, room: bool = True) -> Bounds:
    return Bounds(seconds, MOST, lambda size: room)


async def ask(wire: Wire, server: Server, body: bytes = BODY, **options: Any) -> bytes:
    head = b"POST /predict HTTP/1.1\r\nhost: model\r\n"
    reply = await wire.ask(Question(server.address, head, body), bounds(**options))
    return bytes(reply.content)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    """On both kinds of event loop: the web process has the second."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def told(story: Story) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(story())

    return told


def test_a_connection_is_kept_and_used_again(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        wire = Wire()
        async with Server(answering) as server:
            for body in (b"1", b"2" * 300_000, b"3"):
                assert await ask(wire, server, body) == body
            assert server.connections == 1
            await wire.close()

    run(story)


def test_as_many_connections_as_questions_at_once(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        wire = Wire()
        async with Server(answering, answering, answering) as server:
            for _ in range(2):
                bodies = [b"%d" % number for number in range(3)]
                answers = await asyncio.gather(*(ask(wire, server, body) for body in bodies))
                assert answers == bodies
            assert server.connections == 3
            await wire.close()

    run(story)


def test_a_kept_connection_that_ended_meanwhile_is_replaced_and_a_new_one_is_not(
    run: Callable[[Story], None],
) -> None:
    async def story() -> None:
        asked = []

        async def once_then_leave(client: Client) -> None:
            await client.answer(await client.request())
            asked.append(await client.request())

        async def leave(client: Client) -> None:
            asked.append(await client.request())

        wire = Wire()
        async with Server(once_then_leave, answering, leave) as server:
            await ask(wire, server)
            assert await ask(wire, server) == BODY
            assert (server.connections, len(asked)) == (2, 1)
            await wire.close()
            with pytest.raises(NobodyThere):
                await ask(Wire(), server)
            assert (server.connections, len(asked)) == (3, 2)

    run(story)


def test_where_nobody_listens_nobody_is_there(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        async with Server() as server:
            pass
        with pytest.raises(NobodyThere):
            await ask(Wire(), server)

    run(story)


async def garbage(client: Client) -> None:
    await client.say(b"\x80\x04 no HTTP at all\r\n\r\n")


async def without_a_length(client: Client) -> None:
    await client.say(b"HTTP/1.1 200 OK\r\nx-mlops-request: %b\r\n\r\nx" % client.number)


async def in_chunks(client: Client) -> None:
    head = b"HTTP/1.1 200 OK\r\nx-mlops-request: %b\r\ntransfer-encoding: chunked\r\n\r\n"
    await client.say(head % client.number + b"1\r\nx\r\n" * 1000)


async def a_head_without_end(client: Client) -> None:
    await client.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        await client.say(b"x-more: " + b"x" * HEAD_BYTES + b"\r\n")


async def half_an_answer(client: Client) -> None:
    await client.say(head_of(client.number, 100) + b"x" * 50)
    client.leave()


async def half_a_head(client: Client) -> None:
    await client.say(b"HTTP/1.1 200 OK\r\ncontent-le")
    client.leave()


async def to_another_request(client: Client) -> None:
    await client.say(head_of(b"0123456789abcdef", 4) + b"them")


async def to_nobody(client: Client) -> None:
    await client.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nthem")


async def a_gigabyte(client: Client) -> None:
    await client.say(head_of(client.number, 1 << 30))
    while True:
        await client.say(b"x" * 100_000)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (garbage, AnswerStrange),
        (without_a_length, AnswerStrange),
        (in_chunks, AnswerStrange),
        (a_head_without_end, AnswerStrange),
        (half_an_answer, AnswerBroken),
        (half_a_head, AnswerBroken),
        (to_another_request, AnswerStrange),
        (to_nobody, AnswerStrange),
        (a_gigabyte, AnswerTooLarge),
    ],
)
def test_what_is_no_answer_is_told_and_its_connection_ended_and_never_asked_again(
    run: Callable[[Story], None], said: Turn, error: type[AnswerLost]
) -> None:
    async def story() -> None:
        ended = asyncio.Event()

        async def turn(client: Client) -> None:
            await client.request()
            try:
                await said(client)
                await client.gone()
            except ConnectionError:
                pass
            ended.set()

        wire = Wire()
        async with Server(turn, answering) as server:
            with pytest.raises(error):
                await ask(wire, server)
            await ended.wait()
            assert await ask(wire, server) == BODY
            assert server.connections == 2
            await wire.close()

    run(story)


def test_an_answer_that_comes_before_its_question_reaches_nobody(
    run: Callable[[Story], None],
) -> None:
    async def story() -> None:
        said = asyncio.Event()

        async def too_early(client: Client) -> None:
            await client.answer(await client.request())
            await client.answer(b"of the last question")
            said.set()
            await client.gone()

        wire = Wire()
        async with Server(too_early, answering) as server:
            assert await ask(wire, server) == BODY
            await said.wait()
            assert await ask(wire, server) == BODY
            assert server.connections == 2
            await wire.close()

    run(story)


def test_two_answers_in_one_piece_end_the_connection(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        async def twice(client: Client) -> None:
            body = await client.request()
            await client.say(2 * (head_of(client.number, len(body)) + body))
            await client.gone()

        wire = Wire()
        async with Server(twice, answering) as server:
            assert await ask(wire, server) == BODY
            assert await ask(wire, server) == BODY
            assert server.connections == 2
            await wire.close()

    run(story)


def test_an_answer_in_many_small_pieces_is_whole(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        content = bytes(range(256)) * 20

        async def in_pieces(client: Client) -> None:
            await client.request()
            whole = head_of(client.number, len(content)) + content
            for at in range(0, len(whole), 7):
                await client.say(whole[at : at + 7])
                await asyncio.sleep(0)
            await client.gone()

        wire = Wire()
        async with Server(in_pieces) as server:
            assert await ask(wire, server) == content
            await wire.close()

    run(story)


def test_a_wait_has_an_end_and_a_question_that_nobody_waits_for_is_taken_back(
    run: Callable[[Story], None],
) -> None:
    async def story() -> None:
        ended: list[int] = []

        async def turn(client: Client) -> None:
            await silent(client)
            ended.append(1)

        asked = asyncio.Event()

        async def given_up(client: Client) -> None:
            await client.request()
            asked.set()
            await client.gone()
            ended.append(2)

        wire = Wire()
        async with Server(turn, given_up) as server:
            with pytest.raises(AnswerLate):
                await ask(wire, server, seconds=0.05)
            work = asyncio.ensure_future(ask(wire, server))
            await asked.wait()
            work.cancel()
            while ended != [1, 2]:
                await asyncio.sleep(0.001)

    run(story)


def test_a_long_answer_that_cannot_be_held_is_not_read(run: Callable[[Story], None]) -> None:
    async def story() -> None:
        async def long(client: Client) -> None:
            await client.request()
            await client.answer(b"x" * 500_000)

        async with Server(long, answering) as server:
            with pytest.raises(MemoryShort):
                await ask(Wire(), server, room=False)
            wire = Wire()
            assert await ask(wire, server, room=False) == BODY
            await wire.close()

    run(story)
