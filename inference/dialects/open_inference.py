"""The Open Inference Protocol, version 2, over HTTP, with its binary tensors.

https://github.com/open-inference/open-inference-protocol and, for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
One tensor of two dimensions is a table without names; several tensors are columns. Without a
version the latest one answers, and an alias can stand where a version does.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from inference import gateway
from inference.descriptions import Model
from inference.dialects.tensors import Tensor, output_tensors, read_tensors, table_of
from inference.door import Request
from inference.question import parsed, selector_of
from inference.refusals import Problem, Refused, refusal
from inference.schema import described
from registry.rawhttp.problems import Answer

HEAD_LENGTH = "inference-header-content-length"
PROBABILITIES = "predict_proba"
DATATYPES = {
    "double": "FP64",
    "float": "FP32",
    "long": "INT64",
    "integer": "INT32",
    "boolean": "BOOL",
    "string": "BYTES",
    "datetime": "BYTES",
    "any": "FP64",
}
SERVER = {"name": "mlops-engine", "version": "5.0.0", "extensions": ["binary_tensor_data"]}
JSON = {"content-type": "application/json"}
Named = Callable[[Request, str, str], Awaitable[Answer]]


@dataclass(frozen=True)
class _Asked:
    """A request in our own form, and what its answer must have."""

    body: bytes
    wanted: list[str]
    id: str


async def server_metadata(request: Request) -> Answer:
    return 200, dict(JSON), orjson.dumps(SERVER)


async def live(request: Request) -> Answer:
    return 200, dict(JSON), b'{"live":true}'


async def ready(request: Request) -> Answer:
    return 200, dict(JSON), b'{"ready":true}'


async def model_metadata(request: Request, name: str, selector: str) -> Answer:
    try:
        model = await described(gateway.current(), name, selector_of(name, selector))
    except Refused as refused:
        return _error(refused.problem)
    return 200, dict(JSON), orjson.dumps(_metadata(model))


async def model_ready(request: Request, name: str, selector: str) -> Answer:
    """Whether a request would be answered now; a cold model is started, and waited for."""
    try:
        await described(gateway.current(), name, selector_of(name, selector))
    except Refused as refused:
        return _error(refused.problem)
    return 200, dict(JSON), orjson.dumps({"name": name, "ready": True})


async def infer(request: Request, name: str, selector: str) -> Answer:
    try:
        return await _infer(request, name, selector_of(name, selector))
    except Refused as refused:
        return _error(refused.problem)


async def _infer(request: Request, name: str, selector: str) -> Answer:
    """Raises Refused."""
    asked = _read(request)
    predicted = await gateway.current().predict(
        name, selector, asked.body, request_id=request.request_id
    )
    document = {
        "model_name": predicted.model_name,
        "model_version": predicted.version,
        "id": asked.id or request.request_id,
        "outputs": [_output(tensor) for tensor in output_tensors(predicted.said, asked.wanted)],
    }
    headers = {**JSON, "server-timing": predicted.server_timing}
    return 200, headers, orjson.dumps(document)


def _read(request: Request) -> _Asked:
    """What was parsed is many times as large as the body: it goes before the model is asked."""
    head, binary = _parts(request)
    wanted = _wanted(head)
    table = table_of(read_tensors(head.get("inputs"), binary))
    body = orjson.dumps({"inputs": table, "return_probabilities": PROBABILITIES in wanted})
    return _Asked(body, wanted, str(head.get("id") or ""))


_MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<selector>[^/]+))?"
PATTERNS: tuple[tuple[str, re.Pattern[str], Named], ...] = (
    ("POST", re.compile(f"{_MODEL}/infer"), infer),
    ("GET", re.compile(f"{_MODEL}/ready"), model_ready),
    ("GET", re.compile(_MODEL), model_metadata),
)


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON in front, and the binary tensors behind it. Raises Refused."""
    told = request.header(HEAD_LENGTH)
    if not told:
        return parsed(request.body), b""
    if not told.isdecimal() or int(told) > len(request.body):
        raise refusal(400, "invalid_request", f"Inference-Header-Content-Length is {told[:20]}.")
    return parsed(request.body[: int(told)]), request.body[int(told) :]


def _wanted(head: dict[str, Any]) -> list[str]:
    """The names of the outputs that are asked for; `predict` when none is. Raises Refused."""
    outputs = head.get("outputs") or []
    if not isinstance(outputs, list):
        raise refusal(400, "invalid_request", "outputs must be a list.")
    names = [str(each.get("name")) for each in outputs if isinstance(each, dict)]
    unknown = [name for name in names if name not in ("predict", PROBABILITIES)]
    if unknown:
        told = f"There is no output {unknown[0][:60]}; there are predict and {PROBABILITIES}."
        raise refusal(400, "unknown_output", told)
    return names or ["predict"]


def _output(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
        "data": tensor.data,
    }


def _metadata(model: Model) -> dict[str, Any]:
    if model.columns:
        inputs = [
            {"name": column.name, "datatype": DATATYPES[column.type], "shape": [-1, 1]}
            for column in model.columns
        ]
    else:
        inputs = [{"name": "input-0", "datatype": "FP64", "shape": [-1, model.width or -1]}]
    outputs = [{"name": "predict", "datatype": _label_datatype(model), "shape": [-1]}]
    if model.probabilities:
        shape = [-1, len(model.classes) or -1]
        outputs.append({"name": PROBABILITIES, "datatype": "FP64", "shape": shape})
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": f"mlops-engine_{model.kind or 'model'}",
        "inputs": inputs,
        "outputs": outputs,
    }


def _label_datatype(model: Model) -> str:
    kinds = {type(label) for label in model.classes}
    if kinds == {str}:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    return "INT64" if kinds == {int} else "FP64"


def _error(problem: Problem) -> Answer:
    """The protocol has one field for what is wrong."""
    headers = dict(JSON)
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = str(problem.retry_after_seconds)
    places = "; ".join(f"{error['field']}: {error['detail']}" for error in problem.errors)
    told = f"{problem.detail} ({places})" if places else problem.detail
    return problem.status, headers, orjson.dumps({"error": told})
