"""The way of a prediction: from a request's body to the model's server and back.

The fast path holds its routes in memory and calls neither database nor registry. A cold model
leaves it for the slow one: rows, tasks, and a wait with an end. Nothing here loads a model.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import orjson
from aiohttp import AddrInfoType
from django.conf import settings
from django.db import close_old_connections
from rest_framework.exceptions import APIException

from inference import services
from inference.api.problems import Answer, problem
from inference.services import ServerView
from registry.mlflow_client import ModelVersion, model_registry

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, str]

LATEST_FRESH_SECONDS = 1.0
KNOWN_FRESH_SECONDS = 10.0
TOUCH_SECONDS = 10.0
POLL_SECONDS = 0.1
RETRY_AFTER_SECONDS = 5
# Below the server's own: the side that asks must be the first to drop an idle connection.
KEEP_ALIVE_SECONDS = 30
PREDICTION_SECONDS = 60
# A container that ended leaves an address where nobody says no: silence must end soon. A busy model
# is not silent, since the kernel of its container acknowledges for it.
SILENCE_SECONDS = 2
THREADS = 4
MAX_VERSION_DIGITS = 9
FIELDS = frozenset({"model_name", "model_version", "inputs", "return_probabilities"})
UNKNOWN_SHOWN = 5
# A request that ends a server twice would end it a third time.
TRIES = 2
SHAPES = 'columns {"age": [25, 35]}, records [{"age": 25}, {"age": 35}], or rows [[25], [35]]'
UNREACHABLE = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    ConnectionError,
)


class Refused(Exception):
    """The request ends here, with this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer[0])
        self.answer = answer


class RouteGone(Exception):
    """No server answered at the address, or that of another model did."""


@dataclass(frozen=True)
class Question:
    """What the gateway needs to know of a request; the inputs are the model server's business."""

    model_name: str
    version: str | None


@dataclass(frozen=True)
class Route:
    """Where a version answers, and what to say there."""

    server_id: int
    address: str
    token: str
    source: str


@dataclass
class Known:
    """What the registry said of a version, and when it was asked."""

    version: ModelVersion
    at: float


class Gateway:
    """Routes, connections and what is known of versions; one for each event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="gateway")
        self._routes: dict[Key, Route] = {}
        self._warming: dict[Key, asyncio.Task[Route]] = {}
        self._latest: dict[str, Known] = {}
        self._asking: dict[tuple[str, str | None], asyncio.Task[ModelVersion]] = {}
        self._checked: dict[Key, float] = {}
        self._touched: dict[int, float] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, body: bytes) -> Answer:
        """Status, headers and body for one request. Never raises what a user could cause."""
        try:
            question = read_question(body)
            name, version = question.model_name, question.version
            if version is None:
                version = (await self._latest_version(name)).version
            return await self._ask_with_patience((name, version), body)
        except Refused as refused:
            return refused.answer

    async def close(self) -> None:
        """Ends connections and what still runs in the background."""
        tasks = [*self._background, *self._warming.values(), *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- the fast path --------------------------------------------------------------------------
    async def _ask_with_patience(self, key: Key, body: bytes) -> Answer:
        for _ in range(TRIES):
            route = self._routes.get(key) or await self._warm_route(key)
            try:
                answer = await self._ask(key, route, body)
            except RouteGone:
                await self._drop(key, route)
                continue
            self._look_after(key, route)
            return answer
        name, version = key
        return problem(
            503,
            "model_server_gone",
            f"The server of model {name} version {version} ended while it was answering.",
            hint="Send fewer rows at a time; the model may need more memory than its server has.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )

    async def _ask(self, key: Key, route: Route, body: bytes) -> Answer:
        """Raises RouteGone."""
        try:
            async with self._pool().post(
                f"http://{route.address}/predict",
                data=body,
                headers={"authorization": f"Bearer {route.token}"},
            ) as response:
                status, content = response.status, await response.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise RouteGone from error
        except TimeoutError:
            return problem(
                503,
                "prediction_timeout",
                f"The model did not answer within {PREDICTION_SECONDS} s.",
                hint="Send fewer rows at a time.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        except UNREACHABLE as error:
            raise RouteGone from error
        if status == 401:
            raise RouteGone
        return _finished(key, content) if status == 200 else _passed_on(status, content)

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, socket_factory=_socket
                ),
                timeout=aiohttp.ClientTimeout(
                    total=PREDICTION_SECONDS, sock_connect=SILENCE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _look_after(self, key: Key, route: Route) -> None:
        """What an answered request leaves to do, none of which it waits for."""
        now = time.monotonic()
        if now - self._touched.get(route.server_id, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._touched[route.server_id] = now
            self._later(self._in_thread(services.touch, route.server_id))
        if now - self._checked.setdefault(key, now) >= KNOWN_FRESH_SECONDS:
            self._checked[key] = now
            self._later(self._check(key, route))

    async def _check(self, key: Key, route: Route) -> None:
        """Forgets a route whose version was deleted, or made anew with other files."""
        try:
            version = await self._version(*key)
        except Refused as refused:
            if refused.answer[0] == 404:
                self._forget(key, route)
            return
        if route.source and version.source != route.source:
            self._forget(key, route)

    # -- the slow path --------------------------------------------------------------------------
    async def _warm_route(self, key: Key) -> Route:
        """All who wait for the same version share one wait. Raises Refused."""
        task = self._warming.get(key)
        if task is None:
            task = asyncio.ensure_future(self._find_route(key))
            self._warming[key] = task
            task.add_done_callback(lambda _: self._warming.pop(key, None))
        # One who goes away must not take the others' wait along.
        return await asyncio.shield(task)

    async def _find_route(self, key: Key) -> Route:
        version = await self._version(*key)
        view = await self._in_thread(lambda: services.ensure_server(*key, source=version.source))
        deadline = time.monotonic() + settings.INFERENCE_WAIT_SECONDS
        while view.status != "ready":
            if view.status == "failed":
                raise Refused(_not_loadable(key, view))
            if time.monotonic() > deadline:
                raise Refused(_still_starting(key))
            await asyncio.sleep(POLL_SECONDS)
            view = await self._in_thread(self._look_again, key, view.id)
        route = Route(view.id, view.address, view.token, view.source)
        self._routes[key] = route
        self._checked[key] = time.monotonic()
        return route

    @staticmethod
    def _look_again(key: Key, server_id: int) -> ServerView:
        """A server that was stopped while we waited is asked for again."""
        view = services.look(server_id)
        if view is None or view.status == "stopped":
            return services.ensure_server(*key)
        return view

    async def _drop(self, key: Key, route: Route) -> None:
        self._forget(key, route)
        await self._in_thread(services.report_gone, route.server_id, route.token)

    def _forget(self, key: Key, route: Route) -> None:
        """Only this route: another request may have found the new one already."""
        if self._routes.get(key) == route:
            del self._routes[key]

    # -- versions -------------------------------------------------------------------------------
    async def _latest_version(self, name: str) -> ModelVersion:
        known = self._latest.get(name)
        if known is None or time.monotonic() - known.at > LATEST_FRESH_SECONDS:
            known = await self._newest(name, known)
            self._latest[name] = known
        return known.version

    async def _newest(self, name: str, known: Known | None) -> Known:
        """While MLflow is away the version that was the latest goes on answering."""
        try:
            version = await self._version(name, None)
        except Refused as refused:
            if known is None or refused.answer[0] != 503:
                self._latest.pop(name, None)
                raise
            version = known.version
        return Known(version, time.monotonic())

    async def _version(self, name: str, version: str | None) -> ModelVersion:
        """Raises Refused. Those who ask at the same time share one call."""
        task = self._asking.get((name, version))
        if task is None:
            task = asyncio.ensure_future(
                self._in_thread(lambda: model_registry().version(name, version))
            )
            self._asking[name, version] = task
            task.add_done_callback(lambda _: self._asking.pop((name, version), None))
        try:
            return await asyncio.shield(task)
        except APIException as error:
            raise Refused(_registry_problem(error)) from error

    # -- helpers --------------------------------------------------------------------------------
    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Database and registry block; their threads are few and keep no connection."""

        def guarded() -> T:
            close_old_connections()
            try:
                return call(*arguments)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("gateway.background_failed", exc_info=task.exception())


def _socket(address: AddrInfoType) -> socket.socket:
    """A connection that ends when what was sent stays unacknowledged."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
    return made


# -- the process's own gateway --------------------------------------------------------------------
_gateways: dict[asyncio.AbstractEventLoop, Gateway] = {}


async def answer(body: bytes) -> Answer:
    """One request, answered by the gateway of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _gateways:
        _gateways[loop] = Gateway()
    return await _gateways[loop].answer(body)


async def close() -> None:
    """Ends the running loop's gateway; the web process calls it when it ends."""
    gateway = _gateways.pop(asyncio.get_running_loop(), None)
    if gateway is not None:
        await gateway.close()


async def answer_once(body: bytes) -> Answer:
    """For a caller whose event loop ends with the answer, such as a Django view in a thread."""
    try:
        return await answer(body)
    finally:
        await close()


# -- reading the request --------------------------------------------------------------------------
def read_question(body: bytes) -> Question:
    """All problems in one answer, each with its field. Raises Refused."""
    document = _document(body)
    errors = [
        *_name_errors(document),
        *_version_errors(document),
        *_inputs_errors(document),
        *_probabilities_errors(document),
        *_unknown_errors(document),
    ]
    if errors:
        raise Refused(
            problem(
                400,
                "invalid",
                "The request is not valid. "
                + " ".join(f"{error['field']}: {error['detail']}" for error in errors),
                errors=errors,
            )
        )
    name, version = str(document["model_name"]), document.get("model_version")
    if version is None:
        return Question(name, None)
    text = str(version).strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > MAX_VERSION_DIGITS:
        raise Refused(
            problem(404, "model_version_not_found", f"Model {name} version {text} not found")
        )
    return Question(name, str(int(text)))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(
            problem(
                400,
                "invalid_json",
                f"The body is not JSON: {error}.",
                hint="A missing number is null in JSON; NaN and Infinity do not exist in it.",
            )
        ) from error
    if not isinstance(document, dict):
        raise Refused(problem(400, "invalid_json", "The body must be a JSON object."))
    return document


def _name_errors(document: dict[str, Any]) -> list[dict[str, str]]:
    name = document.get("model_name")
    if name is None:
        return [_error("model_name", "This field is required.")]
    if not isinstance(name, str) or not name.strip():
        return [_error("model_name", "Expected the model's name as text.")]
    return []


def _version_errors(document: dict[str, Any]) -> list[dict[str, str]]:
    version = document.get("model_version")
    if version is None or (isinstance(version, int) and not isinstance(version, bool)):
        return []
    if isinstance(version, str) and version.strip():
        return []
    return [_error("model_version", 'Expected a version number such as "1", or nothing.')]


def _inputs_errors(document: dict[str, Any]) -> list[dict[str, str]]:
    if document.get("inputs") is None:
        return [_error("inputs", "This field is required.")]
    if not isinstance(document["inputs"], dict | list):
        return [_error("inputs", f"Expected {SHAPES}.")]
    return []


def _probabilities_errors(document: dict[str, Any]) -> list[dict[str, str]]:
    if isinstance(document.get("return_probabilities"), bool | None):
        return []
    return [_error("return_probabilities", "Expected true or false.")]


def _unknown_errors(document: dict[str, Any]) -> list[dict[str, str]]:
    """A misspelt field would be left out in silence."""
    unknown = [field for field in document if field not in FIELDS][:UNKNOWN_SHOWN]
    known = ", ".join(sorted(FIELDS))
    return [_error(field[:80], f"There is no such field; known: {known}.") for field in unknown]


def _error(field: str, detail: str) -> dict[str, str]:
    return {"field": field, "detail": detail}


# -- answers --------------------------------------------------------------------------------------
def _finished(key: Key, content: bytes) -> Answer:
    result = orjson.loads(content)
    document = {
        "model_name": key[0],
        "model_version": key[1],
        "predictions": result["predictions"],
        "probabilities": result["probabilities"],
        "classes": result["classes"],
        "inference_time_ms": round(result["inference_time_ms"], 1),
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return 200, {"content-type": "application/json"}, orjson.dumps(document)


def _passed_on(status: int, content: bytes) -> Answer:
    """The model server's refusal in its own words."""
    try:
        told = orjson.loads(content)
        code, detail, errors = told["code"], told["detail"], told["errors"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        log.error("gateway.strange_answer", extra={"status": status})
        return problem(500, "model_failed", "The model's server gave an answer nobody understands.")
    retry = RETRY_AFTER_SECONDS if status == 503 else None
    return problem(status, code, detail, errors=errors, retry_after_seconds=retry)


def _not_loadable(key: Key, view: ServerView) -> Answer:
    return problem(
        503,
        view.reason if view.reason in services.PASSING_REASONS else "model_not_loadable",
        f"Model {key[0]} version {key[1]} cannot answer: {view.error}",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _still_starting(key: Key) -> Answer:
    return problem(
        503,
        "model_starting",
        f"Model {key[0]} version {key[1]} is still being loaded.",
        hint="Send the request again in a few seconds.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _registry_problem(error: APIException) -> Answer:
    codes = error.get_codes()
    return problem(
        error.status_code,
        codes if isinstance(codes, str) else error.default_code,
        str(error.detail),
        hint=getattr(error, "hint", ""),
        retry_after_seconds=RETRY_AFTER_SECONDS if error.status_code == 503 else None,
    )
