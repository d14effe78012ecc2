"""What a request would write to in MLflow, and whether a job may; pure functions.

MLflow gives rights on experiments. Within one, a run or logged model is written by the attempt that
made it and by nobody else; everybody with a right on the experiment may read it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qs, unquote

from registry.job_users import is_tag_of

ATTEMPT_TAG = "job_attempt"
CALL = re.compile(r"/(?:ajax-)?api/.*?mlflow/(?P<call>.*)", re.DOTALL)
STORE = re.compile(
    r"/(?:ajax-)?api/\d+\.\d+/mlflow-artifacts/(?:artifacts|mpu/(?:create|complete|abort))/"
    r"(?P<place>.*)",
    re.DOTALL,
)
# Where MLflow itself keeps the files of a run, a logged model and a trace.
PLACE = re.compile(
    r"\d+/(?:(?P<run>[0-9a-f]{32})|models/(?P<model>m-[0-9a-f]{32})|traces/tr-[0-9a-f]{32})"
    r"/artifacts/(?P<file>.+)",
    re.DOTALL,
)
MAX_DEPTH = 32
READS = frozenset(
    {
        "experiments/search",
        "experiments/search-datasets",
        "runs/search",
        "logged-models/search",
        "artifacts/presigned-download-url",
    }
)
# They would bring others' runs with them, or lead files past the bounds of what is kept.
REFUSED = frozenset(
    {
        "experiments/delete",
        "experiments/restore",
        "experiments/update",
        "artifacts/presigned-upload-url",
    }
)
# In both of protobuf's spellings, and with the name that runs had before.
RUN_KEYS = frozenset({"run_id", "runId", "run_uuid", "runUuid", "source_run_id", "sourceRunId"})
MODEL_KEYS = frozenset({"model_id", "modelId"})
WHOSE = "Only the job that made it may write to {0}; every job of its experiment may read it."


class Made(Enum):
    """What a request makes, by the place of its id in MLflow's answer."""

    RUN = ("run", "info", "run_id")
    MODEL = ("model", "info", "model_id")

    def id_in(self, answer: bytes) -> str:
        """Empty when the answer is not MLflow's."""
        try:
            found: Any = json.loads(answer)
            for key in self.value:
                found = found[key]
        except (ValueError, KeyError, TypeError):
            return ""
        return str(found)


class Refused(Exception):
    """A job may not write this; the text says why."""


@dataclass(frozen=True)
class Upload:
    """A file: which run or model it is for; None for a trace's, which are the experiment's."""

    owner: str | None


@dataclass(frozen=True)
class Call:
    """A call of MLflow's API, from behind its version. `checked`: it names runs or models."""

    path: str
    checked: bool

    @property
    def makes(self) -> Made | None:
        return {"runs/create": Made.RUN, "logged-models": Made.MODEL}.get(self.path)


def write_of(path: str, query: bytes) -> Upload | Call:
    """What kind of write a path asks for. Raises Refused."""
    if "mlflow-artifacts" in path:
        return _upload(path)
    found = CALL.fullmatch(path)
    call = found["call"] if found else ""
    if call in REFUSED:
        raise Refused("A job may not do this to an experiment, which others may have runs in.")
    if call == "upload-artifact":
        return Upload(owner=_only_run_of(query))
    family = call.partition("/")[0]
    checked = family in ("runs", "logged-models") or call == "traces/link-to-run"
    return Call(path=call, checked=checked and call not in READS)


def parsed(body: bytes) -> dict[str, Any]:
    """The document as MLflow would read it. Raises Refused."""
    try:
        document = json.loads(body) if body else {}
        # Old clients encode it twice, which MLflow takes.
        document = json.loads(document) if isinstance(document, str) else document
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise Refused("The body is not a JSON object.")
    return document


def check_call(
    call: Call, document: dict[str, Any], *, username: str, owns: Callable[[str], bool]
) -> None:
    """Raises Refused where it would write to what another job made, or bear its tag."""
    keys = RUN_KEYS if call.path == "runs/log-inputs" else RUN_KEYS | MODEL_KEYS
    named = [value for value in _values(document, keys) if value not in ("", None)]
    if call.path.startswith("logged-models/"):
        named.append(call.path.split("/")[1])
    if not named and call.makes is None:
        raise Refused("The call names no run or model that this job made.")
    for value in named:
        if not isinstance(value, str) or not owns(value):
            raise Refused(WHOSE.format(f"{value!s:.60}"))
    for tag in _attempt_tags(document):
        if not isinstance(tag, str) or not is_tag_of(username, tag):
            raise Refused(f"The tag {ATTEMPT_TAG} is this job's own.")


def check_upload(upload: Upload, *, owns: Callable[[str], bool]) -> None:
    """Raises Refused for a file of what another job made."""
    if upload.owner is not None and not owns(upload.owner):
        raise Refused(WHOSE.format(upload.owner))


def _upload(path: str) -> Upload:
    found = STORE.fullmatch(path)
    place = PLACE.fullmatch(found["place"]) if found else None
    if place is None:
        raise Refused("Artifacts are kept in a run or a logged model.")
    parts = _decoded(place["file"]).replace("\\", "/").split("/")
    if ".." in parts or len(parts) > MAX_DEPTH:
        raise Refused(f"A path may not lead out, nor have more than {MAX_DEPTH} folders.")
    return Upload(owner=place["run"] or place["model"])


def _decoded(path: str) -> str:
    """As MLflow does: again and again, until nothing changes."""
    while (once := unquote(path)) != path:
        path = once
    return path


def _only_run_of(query: bytes) -> str:
    named = parse_qs(query.decode("latin-1")).get("run_uuid", [])
    if len(named) != 1:
        raise Refused("The request must name one run.")
    return named[0]


def _values(document: Any, keys: frozenset[str]) -> Iterator[Any]:
    """Of these keys, however deep."""
    for inner in _objects(document):
        yield from (value for key, value in inner.items() if key in keys)


def _attempt_tags(document: Any) -> Iterator[Any]:
    for inner in _objects(document):
        if inner.get("key") == ATTEMPT_TAG and "value" in inner:
            yield inner["value"]


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    left = [document]
    while left:
        inner = left.pop()
        if isinstance(inner, dict):
            yield inner
            left.extend(inner.values())
        elif isinstance(inner, list):
            left.extend(inner)
