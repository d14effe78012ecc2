"""The gateway: real rows and a real HTTP server in the place of the model's container."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from django.utils import timezone
from rest_framework.test import APIRequestFactory

from inference import asgi, door, gateway, metrics, versions
from inference.api.views import InferenceView
from inference.gateway import Gateway
from inference.models import ModelServer
from inference.services import pool, watching
from inference.services.rows import ServerView
from registry.mlflow_client import (
    AliasNotFound,
    ModelVersion,
    ModelVersionNotFound,
    RegistryUnavailable,
)

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "a-token"
RESULT = {
    "predictions": [1, 0],
    "probabilities": [[0.2, 0.8], [0.9, 0.1]],
    "classes": [0, 1],
    "inference_time_ms": 15.3333,
}
REQUEST = {"model_name": "churn", "model_version": "1", "inputs": [[1], [2]]}


class Registry:
    """Knows the versions 1 and 2 of one model, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.sources = {"1": "models:/m-1", "2": "models:/m-2"}
        self.named: dict[str, str] = {}
        self.available = True

    def version(self, name: str, version: str | None) -> ModelVersion:
        self.calls += 1
        if not self.available:
            raise RegistryUnavailable
        number = version or "2"
        if name != "churn" or number not in self.sources:
            raise ModelVersionNotFound(name, number)
        return self._version(name, number)

    def aliased(self, name: str, alias: str) -> ModelVersion:
        self.calls += 1
        if not self.available:
            raise RegistryUnavailable
        if name != "churn" or alias not in self.named:
            raise AliasNotFound(name, alias)
        return self._version(name, self.named[alias])

    def _version(self, name: str, number: str) -> ModelVersion:
        now = datetime.now(UTC)
        return ModelVersion(
            name=name,
            version=number,
            run_id="r",
            model_id="m",
            status="READY",
            description="",
            source=self.sources[number],
            created_at=now,
            updated_at=now,
        )


class Container:
    """A model's server on a port of its own, which answers what it is told to."""

    def __init__(self, token: str = TOKEN) -> None:
        self.token = token
        self.answer: tuple[int, Any] = (200, RESULT)
        self.headers: dict[str, str] = {}
        self.asked: list[Any] = []
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> "Container":
        application = web.Application()
        application.router.add_post("/predict", self._predict)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _predict(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            echo = {"x-mlops-request": request.headers["x-mlops-request"]}
            return web.json_response({"code": "wrong_token"}, status=401, headers=echo)
        self.asked.append(await request.json())
        status, document = self.answer
        headers = {"x-mlops-request": request.headers["x-mlops-request"], **self.headers}
        return web.json_response(document, status=status, headers=headers)


class Worker:
    """Stands where the queue does: does at once, in the row, what the worker would do."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.container: Container | None = None
        self.error = ""

    def __call__(self, task: str, server_id: int, *, save: bool) -> None:
        self.tasks.append((task, server_id))
        row = ModelServer.objects.filter(pk=server_id)
        if self.error:
            row.update(status="failed", reason="model_not_loadable", error=self.error)
        elif self.container is not None:
            row.update(
                status="ready",
                address=self.container.address,
                token=self.container.token,
                container_id="c",
                source="models:/m-1",
            )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    stub = Registry()
    monkeypatch.setattr(versions, "model_registry", lambda: stub)
    return stub


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """The supervisor queues what is due whenever the gateway looks whether it is done."""
    stub = Worker()
    monkeypatch.setattr(watching, "async_task", stub)
    look = pool.look

    def dispatch_and_look(server_id: int) -> ServerView | None:
        watching.dispatch()
        return look(server_id)

    monkeypatch.setattr(pool, "look", dispatch_and_look)
    return stub


@dataclasses.dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    document: dict[str, Any]


async def ask(road: Gateway, document: Any) -> Answered:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    status, headers, content = await road.answer(body, request_id="r-1")
    return Answered(status, headers, json.loads(content))


def run(story: Callable[[Gateway], Awaitable[None]]) -> None:
    async def told() -> None:
        road = Gateway()
        try:
            await story(road)
        finally:
            await road.close()

    asyncio.run(told())


def alone(document: Any) -> Answered:
    """One request by a gateway of its own."""
    answers: list[Answered] = []

    async def story(road: Gateway) -> None:
        answers.append(await ask(road, document))

    run(story)
    return answers[0]


def test_every_problem_of_a_request_is_in_one_answer(registry: Registry) -> None:
    answered = alone({"model_version": 1.5, "inputs": "x", "return_probabilities": "yes"})
    assert answered.status == 400
    assert answered.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answered.document["errors"]] == [
        "model_name",
        "model_version",
        "inputs",
        "return_probabilities",
    ]


def test_a_misspelt_field_is_named(registry: Registry) -> None:
    answered = alone({**REQUEST, "return_probabilites": True})
    assert answered.status == 400
    assert [error["field"] for error in answered.document["errors"]] == ["return_probabilites"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[1]", b'{"inputs": NaN}', b"\xff"),
        # Too deep, and numbers that are none, are no memory and no time.
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs": [[' + b"9" * 100_000 + b"]]}",
        b'{"inputs": [[1e999999999]]}',
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(registry: Registry, body: bytes) -> None:
    answered = alone(body)
    assert (answered.status, answered.document["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("version", ["999", 999, "1a"])
def test_an_unknown_version_has_the_contracts_sentence(registry: Registry, version: Any) -> None:
    answered = alone({**REQUEST, "model_name": "my_model", "model_version": version})
    assert answered.status == 404
    assert answered.document["detail"] == f"Model my_model version {version} not found"
    assert answered.document["instance"] == "/mlops/inference"
    assert not ModelServer.objects.exists()


def test_a_version_that_is_empty_is_a_wrong_field(registry: Registry) -> None:
    answered = alone({**REQUEST, "model_version": " "})
    assert answered.status == 400
    assert [error["field"] for error in answered.document["errors"]] == ["model_version"]
    assert "model_version: Expected a version number" in answered.document["detail"]


def test_while_the_registry_is_away_the_version_that_was_the_latest_goes_on_answering(
    registry: Registry, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "FRESH_SECONDS", 0)
    monkeypatch.setattr(versions, "STALE_SECONDS", 0)

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        asked = {"model_name": "churn", "inputs": [[1]]}
        assert (await ask(road, asked)).status == 200
        registry.available = False
        answered = await ask(road, asked)
        assert (answered.status, answered.document["model_version"]) == (200, "2")
        registry.available = True
        registry.sources.clear()
        assert (await ask(road, asked)).status == 404
        await worker.container.stop()

    run(story)


def test_a_registry_that_is_down_is_a_503_with_a_time_to_come_back(registry: Registry) -> None:
    registry.available = False
    answered = alone(REQUEST)
    assert (answered.status, "retry-after" in answered.headers) == (503, True)


def test_a_cold_model_is_started_and_answers_with_the_contracts_fields(
    registry: Registry, worker: Worker
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answered = await ask(road, {**REQUEST, "return_probabilities": True})
        await worker.container.stop()
        assert answered.status == 200
        assert list(answered.document) == [
            "model_name",
            "model_version",
            "predictions",
            "probabilities",
            "classes",
            "inference_time_ms",
            "timestamp",
            "request_id",
        ]
        assert answered.document["model_version"] == "1"
        assert answered.document["inference_time_ms"] == 15.3
        datetime.strptime(answered.document["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
        assert worker.container.asked[0]["return_probabilities"] is True

    run(story)
    assert [task for task, _ in worker.tasks] == ["inference.tasks.start_server"]


def test_a_warm_model_is_answered_without_asking_the_registry_again(
    registry: Registry, worker: Worker
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answers = [await ask(road, REQUEST) for _ in range(5)]
        await worker.container.stop()
        assert [answered.status for answered in answers] == [200] * 5

    run(story)
    assert registry.calls == 1


def test_without_a_version_the_latest_ready_one_answers(registry: Registry, worker: Worker) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answered = await ask(road, {"model_name": "churn", "inputs": [[1]]})
        await worker.container.stop()
        assert answered.document["model_version"] == "2"

    run(story)


def test_many_who_wait_for_a_cold_model_start_it_once(registry: Registry, worker: Worker) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answers = await asyncio.gather(*(ask(road, REQUEST) for _ in range(10)))
        await worker.container.stop()
        assert {answered.status for answered in answers} == {200}

    run(story)
    assert (len(worker.tasks), registry.calls) == (1, 1)


def test_a_server_that_is_gone_is_started_again_within_the_same_request(
    registry: Registry, worker: Worker
) -> None:
    async def story(road: Gateway) -> None:
        first = worker.container = await Container().start()
        await ask(road, REQUEST)
        await first.stop()
        second = worker.container = await Container().start()
        answered = await ask(road, REQUEST)
        await second.stop()
        assert (answered.status, len(second.asked)) == (200, 1)

    run(story)
    assert len(worker.tasks) == 2


def test_an_address_that_another_model_got_is_never_believed(
    registry: Registry, worker: Worker
) -> None:
    async def story(road: Gateway) -> None:
        own = worker.container = await Container().start()
        await ask(road, REQUEST)
        own.token = "of another model"
        worker.container = await Container(token="new").start()
        answered = await ask(road, REQUEST)
        assert (answered.status, len(own.asked)) == (200, 1)
        await own.stop()
        await worker.container.stop()

    run(story)


def test_a_server_that_dies_at_every_try_is_a_503(registry: Registry, worker: Worker) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        await worker.container.stop()
        answered = await ask(road, REQUEST)
        assert (answered.status, answered.document["code"]) == (503, "model_server_gone")

    run(story)


def test_a_model_that_cannot_be_loaded_says_why(registry: Registry, worker: Worker) -> None:
    worker.error = "The model cannot be loaded: ModuleNotFoundError: No module named 'xgboost'"
    answered = alone(REQUEST)
    assert (answered.status, answered.document["code"]) == (503, "model_not_loadable")
    assert worker.error in answered.document["detail"]


def test_a_wait_has_an_end(registry: Registry, worker: Worker, settings: Any) -> None:
    settings.INFERENCE_WAIT_SECONDS = 0
    answered = alone(REQUEST)
    assert (answered.status, answered.document["code"]) == (503, "model_starting")
    assert answered.headers["retry-after"] == "5"


def test_the_models_refusal_reaches_the_user_in_its_own_words(
    registry: Registry, worker: Worker
) -> None:
    told = {
        "code": "wrong_column_count",
        "detail": "expected 20 features, got 1",
        "errors": [{"field": "inputs", "detail": "expected 20 features, got 1"}],
    }

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        worker.container.answer = (400, told)
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert answered.status == 400
        assert {name: answered.document[name] for name in told} == told

    run(story)


def test_a_version_number_that_was_given_again_is_served_from_its_new_files(
    registry: Registry, worker: Worker
) -> None:
    now = timezone.now()
    ModelServer.objects.create(
        model_name="churn",
        version="1",
        source="models:/m-old",
        status="ready",
        address="127.0.0.1:1",
        container_id="old",
        created_at=now,
        changed_at=now,
    )
    view = pool.ensure_server("churn", "1", source="models:/m-1")
    watching.dispatch()
    assert (view.status, len(worker.tasks)) == ("starting", 1)


# -- the two doors --------------------------------------------------------------------------------


def through_asgi(body: bytes, *, length: int | None = None) -> Answered:
    sent: list[dict[str, Any]] = []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not coming:
            await asyncio.Event().wait()
        return coming.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def story() -> None:
        headers = [(b"content-length", str(length or len(body)).encode())]
        scope = {"type": "http", "method": "POST", "path": "/mlops/inference", "headers": headers}
        handler = asgi.handler_of(scope)
        assert handler is not None
        await door.answer_request(scope, receive, send, handler)
        await gateway.close()

    asyncio.run(story())
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], headers, json.loads(sent[1]["body"]))


def test_a_body_that_is_too_large_is_a_413(settings: Any) -> None:
    settings.INFERENCE_MAX_BYTES = 10
    told, counted = through_asgi(b"{}", length=11), through_asgi(b"x" * 11, length=1)
    assert (told.status, counted.status) == (413, 413)
    assert told.document["code"] == "body_too_large"


def test_an_error_that_nobody_foresaw_stays_anonymous(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(registry, "version", broken)
    answered = through_asgi(json.dumps(REQUEST).encode())
    assert (answered.status, answered.document["code"]) == (500, "internal_error")
    assert "hunter2" not in json.dumps(answered.document)


def test_djangos_own_view_answers_the_same(registry: Registry) -> None:
    request = APIRequestFactory().post(
        "/mlops/inference", {**REQUEST, "model_version": "999"}, format="json"
    )
    response = InferenceView.as_view()(request)
    assert response.status_code == 404
    assert response["content-type"] == "application/problem+json"
    assert json.loads(response.content)["detail"] == "Model churn version 999 not found"


# -- addressing -----------------------------------------------------------------------------------
@pytest.mark.parametrize("address", [{"model_version": "champion"}, {"model_alias": "champion"}])
def test_an_alias_is_answered_by_the_version_that_it_names(
    registry: Registry, worker: Worker, address: dict[str, str]
) -> None:
    registry.named["champion"] = "1"

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answered = await ask(road, {"model_name": "churn", "inputs": [[1]], **address})
        await worker.container.stop()
        assert (answered.status, answered.document["model_version"]) == (200, "1")

    run(story)


def test_alias_and_version_together_are_refused(registry: Registry) -> None:
    answered = alone({**REQUEST, "model_alias": "champion"})
    assert [error["field"] for error in answered.document["errors"]] == ["model_alias"]


def test_a_moved_alias_is_answered_by_the_old_version_until_the_new_one_is_ready(
    registry: Registry, worker: Worker
) -> None:
    asked = {"model_name": "churn", "model_alias": "champion", "inputs": [[1]]}
    registry.named["champion"] = "1"

    async def story(road: Gateway) -> None:
        container = worker.container = await Container().start()
        assert (await ask(road, asked)).document["model_version"] == "1"
        registry.named["champion"], worker.container = "2", None
        road.versions.doubt()
        assert (await ask(road, asked)).document["model_version"] == "1"
        worker.container = container
        await asyncio.to_thread(ModelServer.objects.update, queued_at=None)
        await road.routes.fleet(("churn", "2"))
        assert (await ask(road, asked)).document["model_version"] == "2"
        await container.stop()

    run(story)


# -- overload, and strange servers ----------------------------------------------------------------
def test_a_full_queue_is_a_503_that_says_when_to_come_back(
    registry: Registry, worker: Worker, settings: Any
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        await ask(road, REQUEST)
        settings.INFERENCE_QUEUE = 0
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert (answered.status, answered.document["code"]) == (503, "overloaded")
        assert answered.headers["retry-after"] == "1"

    run(story)


@pytest.mark.parametrize(
    "said",
    [
        (200, {"predictions": [1]}),
        (200, [1, 2]),
        (200, {**RESULT, "inference_time_ms": "x"}),
        (302, {"code": "x", "detail": "y", "errors": []}),
        (400, {"code": "NOT A CODE", "detail": "y", "errors": []}),
        (400, {"code": "wrong_type", "detail": "y", "errors": [1]}),
        (400, {"code": "wrong_type", "detail": "y", "errors": {"field": "x"}}),
    ],
)
def test_a_server_that_answers_garbage_is_one_clear_500(
    registry: Registry, worker: Worker, said: tuple[int, Any]
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        worker.container.answer = said
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert (answered.status, answered.document["code"]) == (500, "model_failed")

    run(story)


def test_an_answer_that_is_too_large_is_not_taken_into_memory(
    registry: Registry, worker: Worker, settings: Any
) -> None:
    settings.INFERENCE_ANSWER_MAX_BYTES = 20

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert (answered.status, answered.document["code"]) == (500, "answer_too_large")

    run(story)


def test_of_two_servers_the_one_with_fewer_requests_is_taken(
    registry: Registry, worker: Worker
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        await ask(road, REQUEST)
        second = await Container().start()
        key = ("churn", "1")
        fleet = await road.routes.fleet(key)
        lane = dataclasses.replace(fleet.lanes[0].route, address=second.address, server_id=0)
        fleet.lanes.append(type(fleet.lanes[0])(lane))
        with road.routes.place(key, fleet):
            await ask(road, REQUEST)
        assert len(second.asked) == 1
        await worker.container.stop()
        await second.stop()

    run(story)


@pytest.mark.parametrize(("said", "told"), [({}, "5"), ({"retry-after": "3"}, "3")])
def test_a_busy_server_is_left_alone_as_long_as_it_asks(
    registry: Registry, worker: Worker, said: dict[str, str], told: str
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        worker.container.headers = said
        worker.container.answer = (503, {"code": "busy", "detail": "Full.", "errors": []})
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert (answered.status, answered.document["code"]) == (503, "busy")
        assert answered.headers["retry-after"] == told

    run(story)


def test_an_answer_to_another_request_reaches_no_client(
    registry: Registry, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        worker.container.headers = {"x-mlops-request": "0123456789abcdef"}
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert (answered.status, answered.document["code"]) == (500, "model_failed")
        assert (answered.document["request_id"], "predictions" in answered.document) == (
            "r-1",
            False,
        )

    run(story)
    assert "why=an answer to another request request_id=r-1" in caplog.text


def test_the_lane_that_answered_is_shown_and_counted(registry: Registry, worker: Worker) -> None:
    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        worker.container.headers = {"x-mlops-lane": "compact"}
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert ";desc=compact," in answered.headers["server-timing"]

    labels = {"model": "churn", "version": "1", "lane": "compact"}
    name = "mlops_inference_lane_requests_total"
    before = metrics.REGISTRY.get_sample_value(name, labels) or 0
    run(story)
    assert metrics.REGISTRY.get_sample_value(name, labels) == before + 1


# -- what a client sees beside the answer ---------------------------------------------------------
def test_answers_and_problems_name_the_request(registry: Registry, worker: Worker) -> None:
    assert alone({}).document["request_id"] == "r-1"

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        answered = await ask(road, REQUEST)
        await worker.container.stop()
        assert answered.document["request_id"] == "r-1"
        assert answered.headers["server-timing"].startswith("gateway;dur=")

    run(story)
