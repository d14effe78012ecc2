"""Other servers' forms of a request: what our model server is given for each, and the answer."""

import asyncio
import json
import struct
from typing import Any

import orjson
import pytest

from inference import asgi, gateway
from inference.answers import Predicted
from inference.door import Request
from inference.refusals import Refused, refusal
from inference.upstream import Heard

RESULT = {
    "predictions": [1, 0],
    "probabilities": [[0.2, 0.8], [0.9, 0.1]],
    "classes": [0, 1],
    "inference_time_ms": 0.5,
}


class Road:
    """Stands where the gateway does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.refusal: Refused | None = None

    async def predict(self, name: str, selector: str, body: bytes, *, request_id: str) -> Predicted:
        self.asked.append((name, selector, json.loads(body)))
        if self.refusal:
            raise self.refusal
        return Predicted(name, "3", dict(RESULT), Heard(200, b""), 1.0)


@pytest.fixture
def road(monkeypatch: pytest.MonkeyPatch) -> Road:
    stub = Road()
    monkeypatch.setattr(gateway, "current", lambda: stub)
    return stub


def post(path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    handler = asgi.handler_of({"method": "POST", "path": path})
    assert handler is not None
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    status, _, content = asyncio.run(handler(Request("POST", path, raw, body, "r-1")))  # type: ignore[arg-type]
    return status, json.loads(content)


INVOKE = "/mlops/models/churn/versions/3/invocations"


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (
            {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
            {"a": [1, 3], "b": [2, 4]},
        ),
        ({"dataframe_split": {"data": [[1, 2]]}}, [[1, 2]]),
        ({"dataframe_records": [{"a": 1}]}, [{"a": 1}]),
        ({"instances": [[1, 2]]}, [[1, 2]]),
        ({"instances": [1, 2]}, [[1], [2]]),
        ({"inputs": {"a": [1]}}, {"a": [1]}),
        ({"inputs": {"a": 1}}, [{"a": 1}]),
    ],
)
def test_each_of_mlflows_forms_becomes_a_table(road: Road, body: Any, inputs: Any) -> None:
    status, answer = post(INVOKE, orjson.dumps(body))
    assert (status, answer) == (200, {"predictions": [1, 0]})
    assert road.asked == [("churn", "3", {"inputs": inputs})]


def test_csv_has_numbers_texts_and_missing_values(road: Road) -> None:
    body = b"a,b,c\n1,x,2.5\n2,,\n"
    assert post(INVOKE, body, content_type="text/csv; charset=utf-8")[0] == 200
    inputs = {"a": [1, 2], "b": ["x", None], "c": [2.5, None]}
    assert road.asked[0][2] == {"inputs": inputs}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b'{"inputs": [], "instances": []}', "application/json"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', "application/json"),
        (b'{"inputs": "x"}', "application/json"),
        (b"a,b\n1\n", "text/csv"),
        (b"\xff", "text/csv"),
    ],
)
def test_a_form_that_is_none_is_told_in_mlflows_words(road: Road, body: bytes, kind: str) -> None:
    status, answer = post(INVOKE, body, content_type=kind)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert answer["message"]


def test_a_refusal_is_told_in_mlflows_words(road: Road) -> None:
    road.refusal = refusal(503, "overloaded", "Too many.", retry_after_seconds=1)
    status, answer = post(INVOKE, b'{"inputs": [[1]]}')
    assert (status, answer["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")


def test_mlflows_endpoints_are_models(road: Road) -> None:
    assert post("/mlops/endpoints/churn/invocations", b'{"inputs": [[1]]}')[0] == 200
    assert road.asked[0][:2] == ("churn", "latest")


V2 = "/v2/models/churn/infer"


def infer(tensors: list[dict[str, Any]], **more: Any) -> tuple[int, dict[str, Any]]:
    return post(V2, orjson.dumps({"inputs": tensors, **more}))


def test_one_tensor_of_two_dimensions_is_rows(road: Road) -> None:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]}
    status, answer = infer([tensor], id="42")
    assert road.asked == [
        ("churn", "latest", {"inputs": [[1, 2], [3, 4]], "return_probabilities": False})
    ]
    assert status == 200
    assert answer == {
        "model_name": "churn",
        "model_version": "3",
        "id": "42",
        "outputs": [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 0]}],
    }


def test_several_tensors_are_columns_and_probabilities_are_an_output(road: Road) -> None:
    a = {"name": "a", "shape": [2, 1], "datatype": "INT64", "data": [[1], [2]]}
    b = {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]}
    _, answer = infer([a, b], outputs=[{"name": "predict_proba"}])
    asked = {"inputs": {"a": [1, 2], "b": ["x", "y"]}, "return_probabilities": True}
    assert road.asked[0][2] == asked
    assert answer["outputs"][0]["shape"] == [2, 2]


def test_binary_tensors_are_read_with_nan_as_missing(road: Road) -> None:
    numbers = struct.pack("<2f", 1.5, float("nan"))
    texts = struct.pack("<I", 2) + b"hi" + struct.pack("<I", 0)
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "a",
                    "shape": [2],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 8},
                },
                {
                    "name": "b",
                    "shape": [2],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(texts)},
                },
            ]
        }
    )
    length = {"inference_header_content_length": str(len(head))}
    assert post(V2, head + numbers + texts, **length)[0] == 200
    assert road.asked[0][2]["inputs"] == {"a": [1.5, None], "b": ["hi", ""]}


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1]},
        {"name": "x", "shape": [-1], "datatype": "FP64", "data": []},
        {"name": "x", "shape": [1, 1, 1], "datatype": "FP64", "data": [1]},
        {"name": "x", "shape": [1], "datatype": "FP64", "data": "x"},
        {"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}},
        {"name": "x", "shape": [10**9, 10**9], "datatype": "FP64", "data": [1]},
    ],
)
def test_a_tensor_that_is_none_is_a_400_in_the_protocols_words(road: Road, tensor: Any) -> None:
    status, answer = infer([tensor])
    assert (status, list(answer)) == (400, ["error"])
    assert not road.asked


def test_an_output_that_there_is_not_is_refused(road: Road) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}
    assert infer([tensor], outputs=[{"name": "nope"}])[0] == 400


@pytest.mark.parametrize("said", ["x", {"a": 1}, [[1], 2], [[1, 2], [3]], [None], [{"a": 1}]])
def test_whatever_a_model_says_is_an_output(
    road: Road, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESULT, "predictions", said)
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}
    assert infer([tensor])[0] == 200


def test_a_models_name_is_taken_as_it_is_in_the_path(road: Road) -> None:
    assert post("/mlops/endpoints/50%41/invocations", b'{"inputs": [[1]]}')[0] == 200
    assert road.asked[0][0] == "50%41"
