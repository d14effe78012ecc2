"""Reads what a model's server said, and makes the client's answer of it.

The server's process runs a stranger's code: it may say anything. What is understood is passed on
within bounds, all else is one clear problem.
"""

import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from django.conf import settings

from inference.joining import Joined
from inference.metrics import Series
from inference.refusals import RETRY_AFTER_SECONDS, Refused, held_too_much, refusal, server_gone
from inference.routes import Key
from inference.upstream import PREDICTION_SECONDS, Heard
from inference.wire import AnswerBroken, AnswerLate, AnswerLost, AnswerTooLarge, MemoryShort
from registry.rawhttp.problems import Answer

log = logging.getLogger(__name__)

CODE = re.compile(r"[a-z_]{1,40}")
# What a model's server may call a refusal: its words are a stranger's, and metrics name them.
SERVER_STATUSES = frozenset({400, 413, 422, 500, 503, 504})
DETAIL_CHARACTERS = 4000
ERRORS_MOST = 50


@dataclass(frozen=True)
class Predicted:
    """What the model said, by whom, and where the time went, in milliseconds."""

    model_name: str
    version: str
    said: dict[str, Any]
    heard: Heard
    total_ms: float
    joined: Joined | None = None

    @property
    def model_ms(self) -> float:
        return self.heard.model_ms or float(self.said["inference_time_ms"])

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds of each."""
        stages = {"queue": self.heard.queue_ms, "model": self.model_ms, "total": self.total_ms}
        if self.joined is not None:
            stages["features"] = self.joined.milliseconds
        known = sum(value for name, value in stages.items() if name != "total")
        return {**stages, "gateway": max(0.0, self.total_ms - known)}

    @property
    def server_timing(self) -> str:
        """https://www.w3.org/TR/server-timing/; which lane answered is the model's description."""
        model, queue = self.model_ms, self.heard.queue_ms
        gateway, features = self.total_ms - model - queue, ""
        if self.joined is not None:
            gateway -= self.joined.milliseconds
            features = f"features;dur={self.joined.milliseconds:.2f}, "
        lane = f";desc={self.heard.lane}" if self.heard.lane else ""
        return (
            f"gateway;dur={max(0.0, gateway):.2f}, {features}queue;dur={queue:.2f}, "
            f"model;dur={model:.2f}{lane}, total;dur={self.total_ms:.2f}"
        )


def read_prediction(
    key: Key, heard: Heard, *, began: float, request_id: str, joined: Joined | None = None
) -> Predicted:
    """Raises Refused: the server's own refusal, or that nobody understands its answer."""
    if heard.status != 200:
        raise _passed_on(heard, request_id)
    try:
        said = orjson.loads(heard.content)
        said["predictions"], said["probabilities"], said["classes"]
        said["inference_time_ms"] = float(said["inference_time_ms"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _not_understood(f"status {heard.status}", request_id) from error
    return Predicted(*key, said, heard, (time.perf_counter() - began) * 1000, joined)


def finished(predicted: Predicted, request_id: str) -> Answer:
    """The contract's own answer."""
    said = predicted.said
    document = {
        "model_name": predicted.model_name,
        "model_version": predicted.version,
        "predictions": said["predictions"],
        "probabilities": said["probabilities"],
        "classes": said["classes"],
        "inference_time_ms": _rounded(said["inference_time_ms"]),
        "timestamp": _timestamp(int(time.time())),
    }
    if predicted.joined is not None:
        document |= predicted.joined.told
    if request_id:
        document["request_id"] = request_id
    headers = {"content-type": "application/json", "server-timing": predicted.server_timing}
    return 200, headers, orjson.dumps(document)


def count(series: Series, predicted: Predicted) -> None:
    """In the version's metrics."""
    heard, joined = predicted.heard, predicted.joined
    series.answered(
        total_ms=predicted.total_ms,
        queue_ms=heard.queue_ms,
        model_ms=predicted.model_ms,
        batch=heard.batch_requests,
        lane=heard.lane,
        features_ms=joined.milliseconds if joined else 0.0,
    )


def lost(key: Key, error: AnswerLost, request_id: str) -> Refused:
    """Why there is no answer, as one problem."""
    if isinstance(error, AnswerLate):
        return _too_slow()
    if isinstance(error, AnswerTooLarge):
        return _too_much()
    if isinstance(error, MemoryShort):
        return held_too_much()
    if isinstance(error, AnswerBroken):
        return server_gone(*key)
    return _not_understood(str(error), request_id)


def _rounded(milliseconds: float) -> float:
    """A fast model takes some hundredths of a millisecond: that is not nothing."""
    return round(milliseconds, 1 if milliseconds >= 10 else 3)


@lru_cache(maxsize=2)
def _timestamp(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _passed_on(heard: Heard, request_id: str) -> Refused:
    """The model server's refusal in its own words."""
    try:
        told = orjson.loads(heard.content)
        code, detail, errors = str(told["code"]), str(told["detail"]), _places(told["errors"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _not_understood(f"status {heard.status}", request_id)
    if heard.status not in SERVER_STATUSES or not CODE.fullmatch(code):
        return _not_understood(f"status {heard.status}", request_id)
    wait = heard.retry_after_seconds or RETRY_AFTER_SECONDS
    return refusal(
        heard.status,
        code,
        detail[:DETAIL_CHARACTERS],
        errors=errors,
        retry_after_seconds=wait if heard.status == 503 else None,
    )


def _places(listed: list[dict[str, Any]]) -> tuple[dict[str, str], ...]:
    return tuple(
        {
            "field": str(place["field"])[:DETAIL_CHARACTERS],
            "detail": str(place["detail"])[:DETAIL_CHARACTERS],
        }
        for place in listed[:ERRORS_MOST]
    )


def _not_understood(why: str, request_id: str) -> Refused:
    log.error("gateway.strange_answer why=%s request_id=%s", why, request_id)
    sentence = "The model's server gave an answer nobody understands."
    return refusal(500, "model_failed", sentence)


def _too_slow() -> Refused:
    return refusal(
        503,
        "prediction_timeout",
        f"The model did not answer within {PREDICTION_SECONDS} s.",
        hint="Send fewer rows at a time.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _too_much() -> Refused:
    most = settings.INFERENCE_ANSWER_MAX_BYTES // (1024 * 1024)
    return refusal(
        500,
        "answer_too_large",
        f"The model's answer is larger than {most} MiB.",
        hint="Send fewer rows at a time.",
    )
