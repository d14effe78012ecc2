"""MLflow's `/invocations`, as `mlflow models serve` and MLflow's own clients have it.

https://mlflow.org/docs/latest/deployment/deploy-model-locally: `dataframe_split`,
`dataframe_records`, `instances`, `inputs`, and CSV. Errors have MLflow's two fields.
"""

import csv
import io
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from inference import gateway
from inference.door import Request
from inference.question import parsed
from inference.refusals import Problem, Refused, refusal
from registry.rawhttp.problems import Answer

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CODES = {400: "BAD_REQUEST", 404: "RESOURCE_DOES_NOT_EXIST", 413: "BAD_REQUEST"}
BEYOND = "INTERNAL_ERROR"
BUSY = "TEMPORARILY_UNAVAILABLE"
Named = Callable[[Request, str, str], Awaitable[Answer]]


async def invoke(request: Request, name: str, selector: str) -> Answer:
    """`POST …/invocations`: the answer is `{"predictions": […]}`."""
    try:
        body = orjson.dumps({"inputs": _inputs(request)})
        predicted = await gateway.current().predict(
            name, selector, body, request_id=request.request_id
        )
    except Refused as refused:
        return _error(refused.problem)
    headers = {"content-type": "application/json", "server-timing": predicted.server_timing}
    return 200, headers, orjson.dumps({"predictions": predicted.said["predictions"]})


PATTERNS: tuple[tuple[str, re.Pattern[str], Named], ...] = (
    # `mlflow.deployments.get_deploy_client("http://…/mlops").predict(endpoint=…)` asks here.
    ("POST", re.compile(r"/mlops/endpoints/(?P<name>[^/]+)/invocations"), invoke),
)


def _inputs(request: Request) -> Any:
    """Raises Refused."""
    kind = request.header("content-type").partition(";")[0].strip().lower()
    if kind == "text/csv":
        return _from_csv(request.body)
    document = parsed(request.body)
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        told = f"The body must have exactly one of {', '.join(FORMS)}; it has {given or 'none'}."
        raise refusal(400, "invalid_request", told)
    inputs = document[given[0]]
    return _from_split(inputs) if given[0] == "dataframe_split" else _table(inputs)


def _table(inputs: Any) -> Any:
    """A list of single values is a column without a name, and single values are a row."""
    if (
        isinstance(inputs, dict)
        and inputs
        and not any(isinstance(v, list) for v in inputs.values())
    ):
        return [inputs]
    if isinstance(inputs, list) and inputs and not isinstance(inputs[0], list | dict):
        return [[cell] for cell in inputs]
    if isinstance(inputs, dict | list):
        return inputs
    raise refusal(400, "inputs_unknown_shape", "Inputs must be a table: a list or an object.")


def _from_split(split: Any) -> Any:
    rows = split.get("data") if isinstance(split, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        told = "dataframe_split must be an object with `columns` and `data`, a list of rows."
        raise refusal(400, "inputs_unknown_shape", told)
    names = split.get("columns")
    if not names:
        return rows
    ragged = [index for index, row in enumerate(rows) if len(row) != len(names)]
    if ragged or not isinstance(names, list):
        told = f"Row {ragged[0] if ragged else 0} does not have one value for each column."
        raise refusal(400, "inputs_ragged", told)
    return {str(name): [row[index] for row in rows] for index, name in enumerate(names)}


def _from_csv(body: bytes) -> dict[str, list[Any]]:
    """The first line names the columns. Raises Refused."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(400, "invalid_csv", f"The body is not CSV in UTF-8: {error}.") from error
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    rows = [row for row in rows if row]
    ragged = next((at for at, row in enumerate(rows, 2) if len(row) != len(names)), None)
    if ragged is not None:
        raise refusal(400, "invalid_csv", f"Line {ragged} does not have {len(names)} values.")
    return {name: _cells([row[index] for row in rows]) for index, name in enumerate(names)}


def _cells(texts: list[str]) -> list[Any]:
    """Numbers where the whole column is numbers; an empty cell is a missing value."""
    for read in (int, float):
        try:
            return [read(text) if text else None for text in texts]
        except ValueError:
            continue
    return [text or None for text in texts]


def _error(problem: Problem) -> Answer:
    busy = problem.status in (429, 503)
    code = BUSY if busy else CODES.get(problem.status, BEYOND)
    headers = {"content-type": "application/json"}
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = str(problem.retry_after_seconds)
    document = {"error_code": code, "message": problem.detail, "errors": list(problem.errors)}
    return problem.status, headers, orjson.dumps(document)
