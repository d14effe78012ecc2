"""Predictions past ASGI: the same answers, and whatever is unusual goes the long way."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from django.conf import settings

from inference import metrics
from inference.gateway import Gateway
from inference.routes import Fleet, Lane
from inference.short_way import ShortWay
from inference.upstream import Route
from mlops_site.connections import Connection
from mlops_site.short_way import Predictions
from registry.rawhttp.problems import Answer

PATIENCE_SECONDS = 30
SAID = b'{"predictions":[1,0],"probabilities":null,"classes":null,"inference_time_ms":0.5}'
BODY = json.dumps({"model_name": "churn", "model_version": "1", "inputs": [[1], [2]]}).encode()
Answering = Callable[[bytes], bytes]


# -- the gateway's part ------------------------------------------------------------------------
def told(number: bytes, content: bytes = SAID, status: bytes = b"200 OK") -> bytes:
    head = (
        b"HTTP/1.1 %b\r\nx-mlops-request: %b\r\nx-mlops-model-ms: 0.5\r\ncontent-length: %d\r\n\r\n"
    )
    return head % (status, number, len(content)) + content


async def asked(answer: Answering, *bodies: bytes, leaves: bool = False) -> "Story":
    """What came of each body, asked one after the other; the first goes the long way."""
    story = Story()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await talk(reader, writer)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        story.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length, number = (
                re.search(pattern, head)[1]  # type: ignore[index]
                for pattern in (rb"content-length: (\d+)", rb"x-mlops-request: (\w+)")
            )
            await reader.readexactly(int(length))
            story.requests += 1
            content = told(number) if story.requests == 1 else answer(number)
            writer.write(content)
            if not content:
                story.left = leaves and not await reader.read(1)
                return

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        gateway = Gateway()
        lane = Lane(Route(1, f"{host}:{port}", "token", ""), touched=time.monotonic())
        fleet = Fleet([lane], time.monotonic(), series=metrics.series("churn", "1"))
        gateway.routes._fleets["churn", "1"] = fleet
        assert not ShortWay(gateway, BODY, "id", story.hear).begin(), "no connection is kept yet"
        assert (await gateway.answer(BODY, request_id="id"))[0] == 200
        for body in bodies:
            way = ShortWay(gateway, body, "id", story.hear)
            story.begun.append(way.begin())
            if story.begun[-1]:
                if leaves:
                    await asyncio.sleep(0.05)
                    way.give_up()
                    await asyncio.sleep(0.05)
                else:
                    await asyncio.wait_for(story.heard.wait(), PATIENCE_SECONDS)
                story.heard.clear()
        assert lane.under_way == 0
        await gateway.close()
    return story


class Story:
    def __init__(self) -> None:
        self.begun: list[bool] = []
        self.answers: list[Answer | None] = []
        self.connections = self.requests = 0
        self.left = False
        self.heard = asyncio.Event()

    def hear(self, answer: Answer | None, share: Any) -> None:
        self.answers.append(answer)
        share.close()
        self.heard.set()

    @property
    def codes(self) -> list[Any]:
        return [(each[0], json.loads(each[2]).get("code")) for each in self.answers if each]


def test_a_usual_prediction_is_answered_as_on_the_long_way() -> None:
    story = asyncio.run(asked(told, BODY, BODY))
    assert story.begun == [True, True]
    assert story.connections == 1
    first = story.answers[0]
    assert first is not None
    document = json.loads(first[2])
    assert document.pop("timestamp")
    assert document == {
        "model_name": "churn",
        "model_version": "1",
        "predictions": [1, 0],
        "probabilities": None,
        "classes": None,
        "inference_time_ms": 0.5,
        "request_id": "id",
    }
    assert "model;dur=0.50" in first[1]["server-timing"]


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b'{"model_name": "churn"}',
        b'{"model_name": "churn", "model_version": "2", "inputs": [[1]]}',
        b'{"model_name": "churn", "inputs": [[1]]}',
        b'{"model_name": "churn", "model_version": "1", "entities": [], "feature_service": "f"}',
    ],
)
def test_what_is_wrong_or_not_at_hand_goes_the_long_way(body: bytes) -> None:
    assert asyncio.run(asked(told, body)).begun == [False]


def test_an_answer_to_another_request_is_no_answer() -> None:
    story = asyncio.run(asked(lambda number: told(b"0" * len(number)), BODY))
    assert story.codes == [(500, "model_failed")]


def test_a_second_answer_on_a_connection_is_never_the_next_requests() -> None:
    story = asyncio.run(asked(lambda number: told(number) + told(number, b"{}"), BODY, BODY))
    assert story.codes == [(200, None)]
    assert story.begun == [True, False], "its connection is not kept"


def test_a_models_own_refusal_is_passed_on() -> None:
    refused = b'{"code":"wrong_type","detail":"No.","errors":[]}'
    story = asyncio.run(asked(lambda number: told(number, refused, b"400 Bad Request"), BODY))
    assert story.codes == [(400, "wrong_type")]


def test_what_json_cannot_say_again_is_one_clear_error() -> None:
    deep = SAID.replace(b"[1,0]", b"[" * 900 + b"]" * 900)
    story = asyncio.run(asked(lambda number: told(number, deep), BODY))
    assert story.codes == [(500, "internal_error")]


@pytest.mark.parametrize("answer", [b"", told(b"x", b"{}", b"401 Unauthorized")])
def test_a_server_that_went_or_is_anothers_is_left_to_the_long_way(answer: bytes) -> None:
    def said(number: bytes) -> bytes:
        return answer.replace(b"request: x", b"request: " + number)

    story = asyncio.run(asked(said, BODY))
    assert story.begun == [True]
    assert story.answers == [None]


def test_a_client_that_leaves_takes_its_question_along() -> None:
    story = asyncio.run(asked(lambda number: b"", BODY, leaves=True))
    assert story.answers == []
    assert story.left


def test_who_finds_no_place_is_told_so_at_once() -> None:
    async def crowd() -> Story:
        story, gateway = Story(), Gateway()
        lane = Lane(Route(1, "127.0.0.1:9", "token", ""), under_way=settings.INFERENCE_QUEUE)
        fleet = Fleet([lane], time.monotonic(), series=metrics.series("churn", "1"))
        gateway.routes._fleets["churn", "1"] = fleet
        for _ in range(2):
            assert ShortWay(gateway, BODY, "id", story.hear).begin()
        left = ShortWay(gateway, BODY, "id", story.hear)
        assert left.begin()
        left.give_up()
        assert story.answers == [], "later, not now"
        await asyncio.wait_for(story.heard.wait(), PATIENCE_SECONDS)
        assert lane.under_way == settings.INFERENCE_QUEUE
        await gateway.close()
        return story

    story = asyncio.run(crowd())
    assert story.codes == [(503, "overloaded")] * 2
    assert [answer[1]["retry-after"] for answer in story.answers if answer] == ["1", "1"]


def test_an_error_on_the_way_out_leaves_no_place_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    async def begin() -> tuple[bool, int]:
        gateway = Gateway()
        lane = Lane(Route(1, "127.0.0.1:9", "token", ""), touched=time.monotonic())
        fleet = Fleet([lane], time.monotonic(), series=metrics.series("churn", "1"))
        gateway.routes._fleets["churn", "1"] = fleet
        monkeypatch.setattr(gateway.upstream, "ask_kept", fail)
        begun = ShortWay(gateway, BODY, "id", lambda answer, share: None).begin()
        await gateway.close()
        return begun, lane.under_way

    assert asyncio.run(begin()) == (False, 0)


# -- the connection's part ---------------------------------------------------------------------
class Outcome:
    def __init__(self, content: bytes, *, is_long: bool) -> None:
        self.content, self.is_long = content, is_long

    def whole(self) -> Answer:
        return 200, {"x-way": "short"}, self.content

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _send(send, b"as an application " + self.content)


class Shortcut:
    """Takes what `Predictions` takes, and answers by what the body says."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.takes = Predictions().takes

    def begin(self, headers: Any, body: bytes, told: Any) -> Callable[[], None] | None:
        loop = asyncio.get_running_loop()
        if body == b"refuse":
            return None
        if body != b"never":
            outcome = None if body == b"gone" else Outcome(body, is_long=body == b"long")
            loop.call_later(0.02, told, outcome)
        return self.left.set


async def _send(send: Any, content: bytes) -> None:
    length = [(b"content-length", b"%d" % len(content)), (b"x-way", b"long")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": content})


async def application(scope: Any, receive: Any, send: Any) -> None:
    content, more = b"", True
    while more:
        message = await receive()
        content, more = content + message.get("body", b""), message.get("more_body", False)
    await _send(send, b"long way: " + content)


@pytest.fixture
def shortcut(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Shortcut:
    settings.ALLOWED_HOSTS = ["a"]
    made = Shortcut()
    monkeypatch.setattr(Connection, "shortcut", made)
    return made


@pytest.fixture
def client(shortcut: Shortcut) -> Iterator[socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application,
        http=Connection,
        loop="uvloop",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run([listening]))
    thread.start()
    with socket.create_connection(listening.getsockname(), timeout=PATIENCE_SECONDS) as made:
        yield made
    server.should_exit = True
    thread.join()
    listening.close()


def request(body: bytes, *headers: bytes, host: bytes = b"a") -> bytes:
    lines = b"".join(line + b"\r\n" for line in headers)
    head = b"POST /mlops/inference HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n"
    return head % (host, lines, len(body)) + body


def until(client: socket.socket, end: bytes) -> bytes:
    content = b""
    while not content.endswith(end):
        piece = client.recv(65536)
        assert piece, content
        content += piece
    return content


def test_a_request_is_answered_past_the_application(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(request(b"hello"))
        answer = until(client, b"\r\n\r\nhello")
        assert b"x-way: short" in answer
        assert b"content-length: 5" in answer
        assert b"date: " in answer


def test_a_body_that_follows_its_head_is_waited_for(client: socket.socket) -> None:
    content = request(b"hello")
    for at in (0, len(content) - 5):
        client.sendall(content[at : at + len(content) - 5])
    assert b"x-way: short" in until(client, b"hello")


def test_a_body_that_comes_slowly_goes_the_long_way(client: socket.socket) -> None:
    content = request(b"hello")
    client.sendall(content[:-3])
    time.sleep(0.2)
    client.sendall(content[-3:])
    until(client, b"long way: hello")


def test_requests_that_came_together_are_answered_in_their_order(client: socket.socket) -> None:
    client.sendall(request(b"first") + request(b"second") + request(b"third"))
    answer = until(client, b"third")
    assert re.findall(rb"\r\n\r\n(first|long way: second|long way: third)", answer) == [
        b"first",
        b"long way: second",
        b"long way: third",
    ]


@pytest.mark.parametrize("body", [b"refuse", b"gone"])
def test_what_the_short_way_has_no_answer_to_is_asked_of_the_application(
    client: socket.socket, body: bytes
) -> None:
    for _ in range(2):
        client.sendall(request(body))
        until(client, b"long way: " + body)


def test_a_long_answer_is_sent_as_slowly_as_it_is_read(client: socket.socket) -> None:
    client.sendall(request(b"long"))
    until(client, b"as an application long")


@pytest.mark.parametrize(
    "sent",
    [
        request(b"hello", host=b"elsewhere"),
        request(b"hello", b"Sec-Fetch-Site: cross-site"),
        request(b"hello", b"Content-Encoding: gzip"),
        request(b"hello", b"Expect: 100-continue"),
        request(b"hello").replace(b"POST", b"PUT"),
        request(b"hello").replace(b"inference ", b"inference?a=b "),
    ],
)
def test_an_unusual_request_goes_the_long_way(client: socket.socket, sent: bytes) -> None:
    client.sendall(sent)
    until(client, b"long way: hello")


def test_a_body_longer_than_the_operator_allows_goes_the_long_way(
    client: socket.socket, settings: Any
) -> None:
    settings.INFERENCE_MAX_BYTES = 4
    client.sendall(request(b"hello"))
    until(client, b"long way: hello")


def test_a_length_with_many_noughts_is_a_length(client: socket.socket) -> None:
    sent = request(b"hello").replace(b"Length: 5", b"Length: " + b"0" * 5000 + b"5")
    client.sendall(sent)
    until(client, b"long way: hello")


def test_who_wants_the_connection_closed_gets_it_closed(client: socket.socket) -> None:
    client.sendall(request(b"hello", b"Connection: close"))
    content = b""
    while piece := client.recv(65536):
        content += piece
    assert content.endswith(b"hello")
    assert b"connection: close" in content


def test_a_client_that_goes_is_noticed_at_once(client: socket.socket, shortcut: Shortcut) -> None:
    client.sendall(request(b"never"))
    time.sleep(0.1)
    client.close()
    assert shortcut.left.wait(PATIENCE_SECONDS)
