"""The web server's own connections: every wait for a client has an end."""

import asyncio
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from mlops_site import connections
from mlops_site.connections import Connection, Joined

SHORT_SECONDS = 0.1
PATIENCE_SECONDS = 30
LONG = b"x" * 20_000_000
REQUEST = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, as the door does to a body that is too large; `/long` with much."""
    content = LONG if scope["path"] == "/long" else b"short"
    length = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    for at in range(0, len(content), 1_000_000):
        piece = content[at : at + 1_000_000]
        more = at + len(piece) < len(content)
        await send({"type": "http.response.body", "body": piece, "more_body": more})


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """Connected to a web server with these connections, under the loop that the platform has."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http=Connection, loop="uvloop", lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run([listening]))
    thread.start()
    with socket.create_connection(listening.getsockname(), timeout=PATIENCE_SECONDS) as made:
        yield made
    server.should_exit = True
    thread.join()
    listening.close()


def rest(client: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    content = b""
    try:
        while piece := client.recv(65536):
            content += piece
    except ConnectionResetError:
        pass
    return content


@pytest.mark.parametrize("sent", [b"\r\n", b"POST /x HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_a_head_that_does_not_come_ends_the_connection(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SHORT_SECONDS)
    client.sendall(REQUEST % b"short")
    assert client.recv(1024).endswith(b"short")
    client.sendall(sent)
    assert rest(client) == b""


def test_who_says_nothing_at_all_is_let_go(monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SHORT_SECONDS)
    assert rest(request.getfixturevalue("client")) == b""


def test_a_head_that_is_too_long_is_refused(client: socket.socket) -> None:
    begin = b"GET / HTTP/1.1\r\nX-Long: "
    client.sendall(begin + b"x" * (connections.HEAD_BYTES + 1 - len(begin)))
    assert rest(client).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_nobody_reads_any_more_does_not_keep_its_connection(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SHORT_SECONDS)
    client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
    client.recv(1024)
    client.sendall(b"x")
    assert rest(client) == b""


def test_who_does_not_read_his_answer_is_let_go(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", SHORT_SECONDS)
    client.sendall(REQUEST % b"long")
    watch = select.poll()
    watch.register(client, 0)
    assert watch.poll(PATIENCE_SECONDS * 1000)
    assert len(rest(client)) < len(LONG)


def test_a_long_answer_and_the_next_request_on_its_connection_are_whole(
    client: socket.socket,
) -> None:
    client.sendall(REQUEST % b"long")
    content = b""
    while len(content) < len(LONG):
        content += client.recv(1_000_000)
    client.sendall(REQUEST % b"short")
    while not content.endswith(b"short"):
        content += client.recv(65536)
    assert content.count(b"HTTP/1.1 200 OK") == 2
    assert LONG in content


class Sink:
    """A transport that remembers each call."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.written.append(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def test_head_and_body_leave_together_and_before_the_end() -> None:
    sink = Sink()

    async def story() -> None:
        transport: Any = sink
        joined = Joined(transport, asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        assert sink.written == []
        await asyncio.sleep(0)
        assert sink.written == [b"head body"]
        joined.write(b"x" * (connections.JOINED_BYTES + 1))
        assert len(sink.written) == 2
        joined.write(b"the last")
        joined.close()
        assert (sink.written[-1], sink.closed) == (b"the last", True)

    asyncio.run(story())
