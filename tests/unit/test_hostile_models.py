"""What a hostile model does to its own server: one clear refusal, and the next answer is right."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import mlflow.pyfunc
import numpy as np
import pytest
import requests

from tests.fixtures.model_server import Server, answers_ready, started, until

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


def test_a_model_that_does_not_come_back_is_told_and_ends_its_server(server: Server) -> None:
    refused = asked(server, "sleep")
    assert (refused.status_code, refused.json()["code"]) == (504, "model_timeout")
    assert server.process.wait(timeout=30) == 4
