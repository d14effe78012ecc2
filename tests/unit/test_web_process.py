"""The router of the web process: a body is whole, or bounded, before a thread is taken."""

import asyncio
import gc
import json
from typing import Any
from unittest import mock

import pytest

from mlops_site import asgi

Message = dict[str, Any]
HOST = (b"host", b"localhost:8000")


class Called:
    """Stands where Django stands, and keeps what it was given."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.headers: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        self.body, self.headers = message["body"], dict(scope["headers"])


@pytest.fixture
def django(monkeypatch: pytest.MonkeyPatch) -> Called:
    called = Called()
    monkeypatch.setattr(asgi, "_django", called)
    return called


def ask(messages: list[Message], headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """What the client sees of a request that comes in these pieces."""
    sent: list[Message] = []
    waiting = iter(messages)
    scope = {"type": "http", "method": "POST", "path": "/mlops/registry"}
    hosted = headers if any(name == b"host" for name, _ in headers) else [HOST, *headers]
    scope["headers"] = hosted

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(asgi.application(scope, receive, send))
    return sent


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_chunks_arrives_whole_with_its_length(django: Called):
    ask([piece(b'{"a":', more=True), piece(b"1}")], [(b"transfer-encoding", b"chunked")])
    assert django.body == b'{"a":1}'
    assert django.headers == dict([HOST, (b"content-length", b"7")])


def test_a_client_that_goes_away_takes_no_thread(django: Called):
    assert ask([piece(b"{", more=True), {"type": "http.disconnect"}], []) == []
    assert django.body is None


@pytest.mark.parametrize("headers", [[(b"content-length", b"11")], []], ids=["told", "found"])
def test_a_body_that_is_too_large_is_refused(django: Called, settings: Any, headers: Any):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    start, content = ask([piece(b"x" * 8, more=True), piece(b"x" * 3, more=True)], headers)
    assert start["status"] == 413
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert json.loads(content["body"])["code"] == "body_too_large"
    assert django.body is None


def test_a_page_of_another_site_sends_no_request_in_somebodys_name(django: Called):
    for site in (b"cross-site", b"same-site"):
        sent = ask([piece(b"{}")], [(b"sec-fetch-site", site)])
        assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (403, "cross_site")
    assert django.body is None
    ask([piece(b"{}")], [(b"sec-fetch-site", b"same-origin")])
    assert django.body == b"{}"


def test_a_name_that_is_not_ours_is_not_answered(django: Called):
    sent = ask([piece(b"{}")], [(b"host", b"rebound.example:8000")])
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (400, "unknown_host")
    assert django.body is None


def test_a_body_that_does_not_come_is_given_up(django: Called, settings: Any):
    settings.INFERENCE_BODY_SECONDS = 0
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/mlops/registry", "headers": [HOST]}
    asyncio.run(asgi.application(scope, receive, send))
    assert (sent[0]["status"], django.body) == (408, None)


def test_what_is_loaded_at_the_start_is_never_looked_through_for_garbage(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(asgi.gateway, "current", mock.MagicMock())
    monkeypatch.setattr(asgi.gateway, "close", mock.AsyncMock())
    monkeypatch.setattr(asgi.following, "close", mock.AsyncMock())
    gc.unfreeze()
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(messages)

    try:
        asyncio.run(asgi.application({"type": "lifespan"}, receive, mock.AsyncMock()))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
