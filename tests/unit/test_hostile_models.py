"""What a hostile model does to its own server: one clear refusal, and the next answer is right."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import mlflow.pyfunc
import numpy as np
import orjson
import pytest
import requests

from inference.wire import (
    AnswerBroken,
    AnswerLost,
    AnswerStrange,
    AnswerTooLarge,
    Bounds,
    NobodyThere,
    Question,
    Reply,
    Wire,
)
from tests.fixtures.model_server import TOKEN, Server, answers_ready, started, until

CALL_SECONDS = 2.0


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Hostile(mlflow.pyfunc.PythonModel):
    """Does what the first cell of its input says."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return getattr(self, str(model_input.iloc[0, 0]))(model_input)

    def behave(self, rows: Any) -> Any:
        return [1] * len(rows)

    def leave(self, rows: Any) -> Any:
        sys.exit(0)

    def answer_too_much(self, rows: Any) -> Any:
        return np.zeros(10_000_000)

    def answer_without_end(self, rows: Any) -> Any:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        return deep

    def answer_no_text(self, rows: Any) -> Any:
        return ["\ud800"]

    def raise_without_words(self, rows: Any) -> Any:
        raise Wordless

    def tell_of_paths(self, rows: Any) -> Any:
        raise RuntimeError("no file /secret/place/here.txt")

    def forge(self, rows: Any) -> Any:
        """Answers in its server's place, in somebody else's name, on every connection."""
        self._say(b"HTTP/1.1 200 OK\r\nx-mlops-request: 0\r\ncontent-length: 2\r\n\r\n{}")
        return [1] * len(rows)

    def garble(self, rows: Any) -> Any:
        self._say(b"\x00 nothing that HTTP knows")
        return [1] * len(rows)

    def promise_a_gigabyte(self, rows: Any) -> Any:
        self._say(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\nx")
        return [1] * len(rows)

    def stop_half_way(self, rows: Any) -> Any:
        self._say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx", then_close=True)
        return [1] * len(rows)

    def fork(self, rows: Any) -> Any:
        """A child that says something more once its server has answered."""
        if os.fork():
            return [1] * len(rows)
        time.sleep(0.2)
        self._say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        os._exit(0)

    def _say(self, content: bytes, *, then_close: bool = False) -> None:
        for number in os.listdir("/proc/self/fd"):
            try:
                with socket.socket(fileno=os.dup(int(number))) as found:
                    found.getpeername()
                    found.sendall(content)
                    if then_close:
                        found.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def linger(self, rows: Any) -> Any:
        time.sleep(0.05)
        return [1] * len(rows)

    def sleep(self, rows: Any) -> Any:
        time.sleep(3600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "0")
        # The server knows nothing of this file.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        mlflow.pyfunc.save_model(folder, python_model=Hostile())
    running = started(folder, "--call-seconds", str(CALL_SECONDS))
    until(lambda: answers_ready(running))
    yield running
    running.process.kill()
    running.process.communicate()


def asked(server: Server, what: str) -> requests.Response:
    return server.predict({"inputs": {"what": [what]}})


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("leave", "model_failed"),
        ("answer_too_much", "answer_too_large"),
        ("answer_without_end", "answer_unusable"),
        ("answer_no_text", "answer_unusable"),
        ("raise_without_words", "model_failed"),
        ("tell_of_paths", "model_failed"),
    ],
)
def test_it_is_told_in_one_refusal_and_the_next_request_is_answered(
    server: Server, what: str, code: str
) -> None:
    refused = asked(server, what)
    assert (refused.status_code, refused.json()["code"]) == (500, code)
    assert "/secret" not in refused.text
    assert asked(server, "behave").json()["predictions"] == [1]


def through_the_wire(server: Server, *asked: str) -> list[Reply | Exception]:
    """What the gateway's own connections make of it, one question after the other."""

    async def told(wire: Wire, what: str) -> Reply | Exception:
        head = b"POST /predict HTTP/1.1\r\nhost: model\r\nauthorization: Bearer %b\r\n"
        body = b'{"inputs": {"what": ["%b"]}}' % what.encode()
        address = server.url.removeprefix("http://")
        question = Question(address, head % TOKEN.encode(), body)
        try:
            return await wire.ask(question, Bounds(30, 1_000_000, lambda size: True))
        except (AnswerLost, NobodyThere) as error:
            return error

    async def story() -> list[Reply | Exception]:
        wire = Wire()
        replies = [await told(wire, what) for what in asked]
        await wire.close()
        return replies

    return asyncio.run(story())


def answer_in(reply: Reply | Exception) -> Reply:
    assert isinstance(reply, Reply), reply
    return reply


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("forge", AnswerStrange),
        ("garble", AnswerStrange),
        ("promise_a_gigabyte", AnswerTooLarge),
        ("stop_half_way", AnswerBroken),
    ],
)
def test_what_a_model_says_in_its_servers_place_is_believed_by_nobody(
    server: Server, what: str, error: type[AnswerLost]
) -> None:
    # What it still says while the next one comes is for that one's connection the same.
    refused, *later = through_the_wire(server, what, *["behave"] * 20)
    assert isinstance(refused, error)
    assert orjson.loads(answer_in(later[-1]).content)["predictions"] == [1]


def test_a_child_that_a_model_leaves_behind_answers_nobody(server: Server) -> None:
    replies = through_the_wire(server, "fork", *["behave"] * 100)
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    assert len(answered) > len(replies) / 2
    assert all(orjson.loads(reply.content)["predictions"] == [1] for reply in answered)


def test_a_model_that_does_not_come_back_is_told_and_ends_its_server(server: Server) -> None:
    # Behind a call that took its time: what answers at once is asked where nobody could be told.
    assert asked(server, "linger").status_code == 200
    refused = asked(server, "sleep")
    assert (refused.status_code, refused.json()["code"]) == (504, "model_timeout")
    assert server.process.wait(timeout=30) == 4
