"""Asks a version what somebody filled in, as everybody is answered, and says the answer in words.

The gateway answers, within bounds; nothing of the model is opened here, and what it says is a
stranger's.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson

from inference import door, gateway
from inference.console.form import written
from registry.console import visible
from registry.rawhttp.problems import Answer

TRY_SECONDS = 15.0
# A model that hangs must not take the threads that show every other page.
AT_ONCE = 3
ROWS_SHOWN, CLASSES_SHOWN, VALUE_CHARACTERS = 50, 20, 200
_turns = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True)
class Chance:
    """The probability of a class; `percent` is None where the model gave no number."""

    label: str
    percent: float | None
    is_highest: bool = False


@dataclass(frozen=True)
class Row:
    number: int
    prediction: str
    chances: Sequence[Chance] = ()


@dataclass(frozen=True)
class Tried:
    """An answer: rows, or why there are none. Times in milliseconds."""

    rows: Sequence[Row] = ()
    more_rows: int = 0
    model_ms: float = 0.0
    whole_ms: float = 0.0
    lane: str = ""
    request_id: str = ""
    problem: str = ""
    hint: str = ""
    # What is wrong in single places, and of it what is wrong in a column.
    others: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return bool(self.problem)


def ask(body: Mapping[str, Any]) -> Tried:
    """One question to a version that has a ready server, within bounds of time and number."""
    request_id = door.new_id({})
    if not _turns.acquire(blocking=False):
        return Tried(problem="Others are trying models right now.", hint="Try it again.")
    try:
        answer = gateway.answer_in_thread(
            orjson.dumps(body), request_id=request_id, seconds=TRY_SECONDS
        )
    except TimeoutError:
        problem = f"The model did not answer within {TRY_SECONDS:.0f} s."
        return Tried(problem=problem, hint="The API waits longer.", request_id=request_id)
    except orjson.JSONEncodeError:
        return Tried(problem="The model's answer cannot be passed on.", request_id=request_id)
    finally:
        _turns.release()
    return told(answer, request_id=request_id)


def told(answer: Answer, *, request_id: str) -> Tried:
    status, headers, content = answer
    document = orjson.loads(content)
    if status != HTTPStatus.OK:
        return _refused(document, request_id)
    timing = headers.get("server-timing", "")
    predictions = document["predictions"]
    rows = predictions if isinstance(predictions, list) else [predictions]
    chances = _list(document.get("probabilities"))
    classes = _list(document.get("classes"))
    return Tried(
        rows=[
            Row(number, _shown(label), _chances(classes, chances, number))
            for number, label in enumerate(rows[:ROWS_SHOWN])
        ],
        more_rows=max(0, len(rows) - ROWS_SHOWN),
        model_ms=document["inference_time_ms"],
        whole_ms=_timing(timing, "total"),
        lane=next(iter(re.findall(r"model;[^,]*desc=(\w+)", timing)), ""),
        request_id=request_id,
    )


def _refused(problem: Mapping[str, Any], request_id: str) -> Tried:
    fields: dict[str, str] = {}
    others = []
    for place in problem.get("errors", []):
        name, detail = str(place.get("field", "")), str(place.get("detail", ""))
        if name.startswith("inputs."):
            fields.setdefault(name.removeprefix("inputs."), detail)
        others.append(f"{name}: {detail}")
    whole = str(problem.get("detail", ""))
    return Tried(
        problem=whole,
        hint=str(problem.get("hint", "")),
        # One that says it all need not be said twice.
        others=[other for other in others if other not in whole],
        fields=fields,
        request_id=request_id,
    )


def _chances(classes: Sequence[Any], chances: Sequence[Any], number: int) -> list[Chance]:
    """In the order of the classes; of many, those that are likeliest."""
    row = chances[number] if number < len(chances) else None
    if not isinstance(row, list):
        return []
    percents = [_percent(value) for value in row]
    highest = max((one for one in percents if one is not None), default=None)
    names = [_shown(classes[at]) if at < len(classes) else str(at) for at in range(len(row))]
    told = [
        Chance(name, percent, percent is not None and percent == highest)
        for name, percent in zip(names, percents, strict=True)
    ]
    if len(told) > CLASSES_SHOWN:
        told = sorted(told, key=lambda one: -(one.percent or 0.0))[:CLASSES_SHOWN]
    return told


def _percent(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(100 * min(1.0, max(0.0, float(value))), 1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: Any) -> str:
    """A stranger's value on one line."""
    text = value if isinstance(value, str) else written(value)
    cut = text[:VALUE_CHARACTERS]
    return visible(f"{cut}…" if len(text) > len(cut) else cut)


def _timing(header: str, name: str) -> float:
    found = re.search(rf"\b{name};dur=([0-9.]+)", header)
    return float(found.group(1)) if found else 0.0
