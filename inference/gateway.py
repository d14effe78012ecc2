"""The way of a prediction: from a request's body to the model's server and back.

The fast path holds its routes in memory and calls neither database nor registry. Nothing here loads
a model, and what a model's server says is checked before it is passed on.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from django.conf import settings

from inference import metrics
from inference.question import read_question
from inference.refusals import RETRY_AFTER_SECONDS, Refused, refusal, server_gone
from inference.routes import Key, Routes
from inference.threads import Threads
from inference.upstream import PREDICTION_SECONDS, AnswerTooLarge, Heard, RouteGone, Upstream
from inference.versions import Versions
from registry.doorbell import GATEWAY_BELL, Listener
from registry.rawhttp.problems import Answer

log = logging.getLogger(__name__)

PATH = "/mlops/inference"
# A request that ends a server twice would end it a third time.
TRIES = 2
CODE = re.compile(r"[a-z_]{1,40}")
# What a model's server may call a refusal: its words are a stranger's, and metrics name them.
SERVER_STATUSES = frozenset({400, 413, 422, 500, 503, 504})
LISTEN_AGAIN_SECONDS = 1.0
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

    @property
    def server_timing(self) -> str:
        """https://www.w3.org/TR/server-timing/"""
        model = self.heard.model_ms or float(self.said["inference_time_ms"])
        gateway = max(0.0, self.total_ms - model - self.heard.queue_ms)
        return (
            f"gateway;dur={gateway:.2f}, queue;dur={self.heard.queue_ms:.2f}, "
            f"model;dur={model:.2f}, total;dur={self.total_ms:.2f}"
        )


class Gateway:
    """Routes, connections and what is known of versions; one for each event loop."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.versions = Versions(self.threads)
        self.routes = Routes(self.threads, self.versions)
        self._upstream = Upstream()
        self._held_bytes = 0
        self._listener: Listener | None = None

    async def answer(self, body: bytes, *, request_id: str = "") -> Answer:
        """Status, headers and body for one request. Never raises what a user could cause."""
        try:
            question = read_question(body)
            predicted = await self.predict(question.model_name, question.selector, body)
        except Refused as refused:
            return refused.problem.answer(instance=PATH, request_id=request_id)
        return _finished(predicted, request_id)

    async def predict(self, name: str, selector: str, body: bytes) -> Predicted:
        """`body` is passed on as it is. Raises Refused."""
        key, began = ("", ""), time.perf_counter()
        try:
            with self._holding(len(body)):
                number = await self.versions.number(name, selector)
                key = (name, self.routes.settled(name, selector, number))
                predicted = await self._ask_with_patience(key, body, began)
        except Refused as refused:
            self._note_failure(key, refused)
            raise
        return predicted

    async def close(self) -> None:
        """Ends connections and what still runs in the background."""
        self.stop_listening()
        await self.versions.close()
        await self.routes.close()
        await self.threads.close()
        await self._upstream.close()

    # -- the bell -------------------------------------------------------------------------------
    def listen(self) -> None:
        """What changes elsewhere is heard of at once; without it, within a few seconds."""
        loop = asyncio.get_running_loop()
        try:
            listener = Listener(GATEWAY_BELL)
        except OSError:
            # Whoever listened last may not be quite gone.
            loop.call_later(LISTEN_AGAIN_SECONDS, self.listen)
            return
        self._listener = listener
        loop.add_reader(listener.fileno(), self._hear, listener)

    def stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _hear(self, listener: Listener) -> None:
        listener.wait(0)
        self.versions.doubt()
        self.routes.doubt()

    # -- one request ----------------------------------------------------------------------------
    async def _ask_with_patience(self, key: Key, body: bytes, began: float) -> Predicted:
        for _ in range(TRIES):
            fleet = await self.routes.fleet(key)
            if not fleet.lanes:
                continue
            with self.routes.place(key, fleet) as route:
                try:
                    heard = await self._upstream.ask(route, body)
                except RouteGone:
                    await self.routes.drop(key, route)
                    continue
                except TimeoutError as error:
                    raise _too_slow() from error
                except AnswerTooLarge as error:
                    raise _too_much() from error
            if heard.status != 200:
                raise _passed_on(heard)
            predicted = _predicted(key, heard, began)
            fleet.series.answered(
                total_ms=predicted.total_ms,
                queue_ms=heard.queue_ms,
                model_ms=heard.model_ms or predicted.said["inference_time_ms"],
                batch=heard.batch_requests,
            )
            return predicted
        raise server_gone(*key)

    def _holding(self, size: int) -> "_Holding":
        return _Holding(self, size)

    def take_bytes(self, size: int) -> None:
        """Raises Refused when all bodies together would be more than the process may hold."""
        if self._held_bytes + size > settings.INFERENCE_HELD_BYTES:
            raise refusal(
                503,
                "overloaded",
                "The requests that are under way are as large as the platform can hold.",
                hint="Send the request again in a second.",
                retry_after_seconds=1,
            )
        self._held_bytes += size

    def give_bytes(self, size: int) -> None:
        self._held_bytes -= size

    @staticmethod
    def _note_failure(key: Key, refused: Refused) -> None:
        if key[0] and refused.problem.code != "model_version_not_found":
            metrics.series(*key).failed(refused.problem.code)


class _Holding:
    """Counts a body as held while its request is under way."""

    def __init__(self, gateway: Gateway, size: int) -> None:
        self._gateway = gateway
        self._size = size

    def __enter__(self) -> None:
        self._gateway.take_bytes(self._size)

    def __exit__(self, *_: object) -> None:
        self._gateway.give_bytes(self._size)


# -- the process's own gateway --------------------------------------------------------------------
_gateways: dict[asyncio.AbstractEventLoop, Gateway] = {}


def current() -> Gateway:
    """The gateway of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _gateways.get(loop)
    if found is None:
        found = _gateways[loop] = Gateway()
    return found


async def close() -> None:
    """Ends the running loop's gateway; the web process calls it when it ends."""
    gateway = _gateways.pop(asyncio.get_running_loop(), None)
    if gateway is not None:
        await gateway.close()


@asynccontextmanager
async def short_lived() -> AsyncIterator[Gateway]:
    """For a caller whose event loop ends with the answer, such as a Django view in a thread."""
    try:
        yield current()
    finally:
        await close()


# -- answers --------------------------------------------------------------------------------------
def _predicted(key: Key, heard: Heard, began: float) -> Predicted:
    """Raises Refused for an answer that is none: a model's process may say anything."""
    try:
        said = orjson.loads(heard.content)
        said["predictions"], said["probabilities"], said["classes"]
        said["inference_time_ms"] = float(said["inference_time_ms"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _not_understood(heard) from error
    return Predicted(*key, said, heard, (time.perf_counter() - began) * 1000)


def _finished(predicted: Predicted, request_id: str) -> Answer:
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
    if request_id:
        document["request_id"] = request_id
    headers = {"content-type": "application/json", "server-timing": predicted.server_timing}
    return 200, headers, orjson.dumps(document)


def _rounded(milliseconds: float) -> float:
    """A fast model takes some hundredths of a millisecond: that is not nothing."""
    return round(milliseconds, 1 if milliseconds >= 10 else 3)


@lru_cache(maxsize=2)
def _timestamp(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _passed_on(heard: Heard) -> Refused:
    """The model server's refusal in its own words."""
    try:
        told = orjson.loads(heard.content)
        code, detail, errors = str(told["code"]), str(told["detail"]), _places(told["errors"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _not_understood(heard)
    if heard.status not in SERVER_STATUSES or not CODE.fullmatch(code):
        return _not_understood(heard)
    return refusal(
        heard.status,
        code,
        detail[:DETAIL_CHARACTERS],
        errors=errors,
        retry_after_seconds=RETRY_AFTER_SECONDS if heard.status == 503 else None,
    )


def _places(listed: list[dict[str, Any]]) -> tuple[dict[str, str], ...]:
    return tuple(
        {
            "field": str(place["field"])[:DETAIL_CHARACTERS],
            "detail": str(place["detail"])[:DETAIL_CHARACTERS],
        }
        for place in listed[:ERRORS_MOST]
    )


def _not_understood(heard: Heard) -> Refused:
    log.error("gateway.strange_answer status=%s", heard.status)
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
