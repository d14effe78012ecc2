"""The door of the raw paths: bodies are bounded, ids are kept, and who goes away is noticed."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from inference.door import Request, answer_request
from registry.rawhttp.problems import Answer

Message = dict[str, Any]


class Seen:
    """What the client got, and what the handler was given."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces = 0
        self.requests: list[Request] = []

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


def send_request(
    body: bytes,
    *,
    headers: dict[str, str] | None = None,
    handler: Callable[[Request], Awaitable[Answer]] | None = None,
    leaves: bool = False,
    silent: bool = False,
) -> Seen:
    seen = Seen()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if silent or not (messages or leaves):
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            seen.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            seen.body += message["body"]
            seen.pieces += 1

    async def echo(request: Request) -> Answer:
        seen.requests.append(request)
        return 200, {"content-type": "application/json"}, request.body

    listed = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": "/mlops/inference", "headers": listed}
    asyncio.run(answer_request(scope, receive, send, handler or echo))
    return seen


def test_a_packed_body_is_unpacked_and_a_long_answer_packed() -> None:
    plain = b"[" + b"1," * 2000 + b"1]"
    headers = {"content-encoding": "gzip", "accept-encoding": "br, gzip"}
    seen = send_request(gzip.compress(plain), headers=headers)
    assert seen.requests[0].body == plain
    assert seen.headers["content-encoding"] == "gzip"
    assert gzip.decompress(seen.body) == plain


def test_an_answer_is_not_packed_for_a_client_that_refuses_it() -> None:
    seen = send_request(b"x" * 5000, headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in seen.headers


def test_a_bomb_is_not_unpacked_beyond_the_bound(settings: Any) -> None:
    settings.INFERENCE_MAX_BYTES = 10_000
    seen = send_request(gzip.compress(b"0" * 1_000_000), headers={"content-encoding": "gzip"})
    assert (seen.status, seen.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"1" * 100)[:-10], 400),
        ("deflate", zlib.compress(b"1"), 415),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_refused(coding: str, body: bytes, status: int) -> None:
    assert send_request(body, headers={"content-encoding": coding}).status == status


def test_a_body_that_does_not_come_is_given_up(settings: Any) -> None:
    settings.INFERENCE_BODY_SECONDS = 0
    seen = send_request(b"", silent=True)
    assert (seen.status, seen.code) == (408, "body_too_slow")


@pytest.mark.parametrize("body", [b"x" * 200_000, gzip.compress(b"x" * 200_000)])
def test_bodies_beyond_what_the_process_may_hold_are_refused(settings: Any, body: bytes) -> None:
    settings.INFERENCE_HELD_BYTES = 100_000
    headers = {"content-encoding": "gzip"} if len(body) < 200_000 else {}
    for _ in range(2):
        seen = send_request(body, headers=headers)
        assert (seen.status, seen.code, seen.headers["retry-after"]) == (503, "overloaded", "1")
    assert send_request(b"x" * 50_000).status == 200


def test_an_answer_beyond_what_the_process_may_hold_is_not_sent(settings: Any) -> None:
    settings.INFERENCE_HELD_BYTES = 100_000

    async def long(request: Request) -> Answer:
        return 200, {}, b"x" * 200_000

    seen = send_request(b"", handler=long)
    assert (seen.status, seen.code) == (503, "overloaded")


def test_a_long_answer_leaves_in_pieces_that_a_client_can_hold_up(settings: Any) -> None:
    sent = b"0123456789" * 300_000

    async def long(request: Request) -> Answer:
        return 200, {}, sent

    seen = send_request(b"", handler=long)
    assert (seen.body == sent, seen.pieces) == (True, 3)


def test_a_client_that_goes_away_ends_its_request() -> None:
    ended: list[str] = []

    async def slow(request: Request) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("given up")
        raise AssertionError

    seen = send_request(b"", handler=slow, leaves=True)
    assert (seen.status, ended) == (0, ["given up"])


def test_a_clients_own_id_is_kept_where_a_log_can_hold_it() -> None:
    assert send_request(b"", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = send_request(b"", headers={"x-request-id": "a\n b"}).headers["x-request-id"]
    assert len(made) == 32


def test_what_nobody_foresaw_stays_anonymous() -> None:
    async def broken(request: Request) -> Answer:
        raise RuntimeError("the password is hunter2")

    seen = send_request(b"", handler=broken)
    assert (seen.status, seen.code) == (500, "internal_error")
    assert b"hunter2" not in seen.body
