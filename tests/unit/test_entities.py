"""Features in a request: what is read, in which columns they are sent, and what goes wrong."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from inference import joining
from inference.descriptions import Model, read_description
from inference.entities import Wanted
from inference.joining import Features, Joined
from inference.question import read_question
from inference.refusals import Refused
from registry.online import client
from registry.online.client import FeatureClient, FeaturesAway, FeaturesBusy, FeaturesLate
from registry.online.frames import (
    Feature,
    FeatureQuestion,
    Gone,
    NotNow,
    NotReadable,
    Source,
    framed,
)
from registry.online.process import _next

ASKED: dict[str, Any] = {
    "model_name": "churn",
    "entities": {"customer_id": [1, 2]},
    "feature_service": "churn",
}
COLUMNS = [{"name": name, "type": "double", "required": True} for name in ("income", "age")]


def model(**said: Any) -> Model:
    return read_description("churn", "1", {"columns": COLUMNS, **said})


def feature(name: str, values: list[Any], view: str = "profile") -> Feature:
    gone = [(row, str(Gone.UNKNOWN)) for row, value in enumerate(values) if value is None]
    return Feature(view, name, values, gone)


def wanted(**more: Any) -> Wanted:
    document = {**ASKED, **more}
    found = read_question(json.dumps({k: v for k, v in document.items() if v is not None}).encode())
    assert found.wanted is not None
    return found.wanted


def refused(work: Callable[[], Any]) -> Any:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.problem


class Store:
    """Stands where the process that reads features is; says what it is told to."""

    said: Any = []

    def __init__(self, repo: Path, *, seconds: float, answer_bytes: int) -> None:
        self.repo = repo

    async def ask(self, question: FeatureQuestion) -> list[Feature]:
        if isinstance(self.said, Exception):
            raise self.said
        features: list[Feature] = self.said
        return features

    async def close(self) -> None:
        return


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    monkeypatch.setattr(joining, "FeatureClient", Store)
    return Store


def joined(asked: Wanted, of: Model) -> Joined:
    return asyncio.run(Features().join(asked, of))


# -- what is read ---------------------------------------------------------------------------------
def test_entities_come_as_columns_or_as_records() -> None:
    columns, records = wanted(), wanted(entities=[{"customer_id": 1}, {"customer_id": 2}])
    assert columns == records
    assert columns.question == FeatureQuestion(Source.SERVICE, ("churn",), {"customer_id": [1, 2]})


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"entities": None}, "entities"),
        ({"entities": []}, "entities"),
        ({"entities": {"customer_id": []}}, "entities"),
        ({"entities": {"customer_id": 1}}, "entities"),
        ({"entities": {"customer_id": [1], "shop": [1, 2]}}, "entities"),
        ({"entities": [{"customer_id": 1}, {"shop": 2}]}, "entities"),
        ({"entities": {"customer_id": [1] * 10_001}}, "entities"),
        ({"inputs": {"age": [1]}}, "entities"),
        ({"inputs": [[1], [2]]}, "inputs"),
        ({"inputs": {"columns": ["age"], "data": [[1], [2]]}}, "inputs"),
        ({"feature_service": None}, "feature_service"),
        ({"feature_service": 7}, "feature_service"),
        ({"feature_views": ["profile"]}, "feature_views"),
        ({"feature_service": None, "features": ["age"]}, "features"),
        ({"feature_service": None, "features": ["a:b", "a:b"]}, "features"),
        ({"feature_service": None, "feature_views": "profile"}, "feature_views"),
        ({"missing_features": "zero"}, "missing_features"),
        ({"return_features": 1}, "return_features"),
        ({"entitys": {}}, "entitys"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], field: str) -> None:
    problem = refused(lambda: wanted(**wrong))
    assert problem.status == 400
    assert field in [error["field"] for error in problem.errors]


# -- what is sent ---------------------------------------------------------------------------------
def test_the_models_columns_are_sent_in_its_order_and_no_others(store: type[Store]) -> None:
    store.said = [feature("age", [25, 35]), feature("x", [1, 1]), feature("income", [0.1, 0.2])]
    sent = json.loads(joined(wanted(), model()).body)
    assert list(sent["inputs"].items()) == [("income", [0.1, 0.2]), ("age", [25, 35])]


def test_an_entity_is_sent_where_the_model_takes_it(store: type[Store]) -> None:
    store.said = [feature("age", [25, 35])]
    columns = [{"name": "customer_id"}, {"name": "age"}]
    sent = json.loads(joined(wanted(), model(columns=columns)).body)
    assert list(sent["inputs"]) == ["customer_id", "age"]


def test_names_with_their_view_match_a_training_that_had_them(store: type[Store]) -> None:
    store.said = [feature("age", [1, 1], "home"), feature("age", [2, 2], "work")]
    sent = json.loads(joined(wanted(), model(columns=[{"name": "work__age"}])).body)
    assert sent["inputs"] == {"work__age": [2, 2]}
    problem = refused(lambda: joined(wanted(), model(columns=[{"name": "age"}])))
    assert (problem.status, problem.code) == (400, "ambiguous_feature")


def test_what_the_client_sends_itself_wins(store: type[Store]) -> None:
    store.said = [feature("age", [25, None]), feature("income", [1.0, 2.0])]
    asked = wanted(inputs=[{"age": 1, "more": 0}, {"age": 2, "more": 0}], return_features=True)
    found = joined(asked, model())
    # What the model does not take its own server refuses.
    assert json.loads(found.body)["inputs"] == {
        "income": [1.0, 2.0],
        "age": [1, 2],
        "more": [0, 0],
    }
    assert found.told == {"features": {"income": [1.0, 2.0]}}


def test_of_a_model_without_names_only_a_list_of_features_says_the_order(
    store: type[Store],
) -> None:
    nameless = model(columns=None, n_features=2)
    store.said = [feature("age", [25, 35]), feature("income", [1.0, 2.0])]
    assert refused(lambda: joined(wanted(), nameless)).code == "columns_unknown"
    named = wanted(feature_service=None, features=["profile:income", "profile:age"])
    sent = json.loads(joined(named, nameless).body)
    assert list(sent["inputs"].values()) == [[1.0, 2.0], [25, 35]]


def test_features_of_another_model_are_a_400(store: type[Store]) -> None:
    store.said = [feature("height", [1, 2])]
    problem = refused(lambda: joined(wanted(), model()))
    assert (problem.status, problem.code) == (400, "columns_mismatch")


# -- what is not there ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("missing", "optional", "status"),
    [(None, False, 422), (None, True, 200), ("refuse", True, 422), ("null", False, 200)],
)
def test_a_missing_value_is_named_and_passed_only_where_it_may_be(
    store: type[Store], missing: str | None, optional: bool, status: int
) -> None:
    store.said = [feature("age", [25, None]), feature("income", [1.0, 2.0])]
    age = {"name": "age", "type": "double", "required": not optional}
    asked, of = wanted(missing_features=missing), model(columns=[COLUMNS[0], age])
    if status == 422:
        problem = refused(lambda: joined(asked, of))
        assert (problem.status, problem.code) == (422, "features_missing")
        assert problem.errors[0]["field"] == "features.age"
        assert "customer_id=2" in problem.errors[0]["detail"]
        return
    told = joined(asked, of).told["missing_features"]
    assert told == [
        {"row": 1, "entity": {"customer_id": 2}, "feature": "age", "detail": str(Gone.UNKNOWN)}
    ]


def test_a_value_without_a_form_in_json_is_never_passed_as_nothing(store: type[Store]) -> None:
    unusable = Feature("profile", "age", [1, None], [(1, str(Gone.UNUSABLE))])
    store.said = [unusable, feature("income", [1.0, 2.0])]
    assert refused(lambda: joined(wanted(missing_features="null"), model())).status == 422


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (NotReadable("unknown_feature", [("features", "x")]), 400, "unknown_feature"),
        (NotNow("Later."), 503, "features_not_ready"),
        (FeaturesAway("Gone."), 503, "feature_store_unavailable"),
        (FeaturesLate(), 503, "features_timeout"),
        (FeaturesBusy(), 503, "overloaded"),
    ],
)
def test_a_store_that_does_not_answer_is_one_clear_problem(
    store: type[Store], raised: Exception, status: int, code: str
) -> None:
    store.said = raised
    problem = refused(lambda: joined(wanted(), model()))
    assert (problem.status, problem.code) == (status, code)
    assert (problem.retry_after_seconds is not None) == (status == 503)


# -- the process that reads them ------------------------------------------------------------------
QUESTION = FeatureQuestion(Source.SERVICE, ("churn",), {"customer_id": [1]})
# Speaks as the real one, and imports no Feast.
SPEAKS = """
import socket, struct, sys, json, os
line = socket.socket(fileno=os.dup(0))
def say(message):
    content = json.dumps(message).encode()
    line.sendall(struct.pack(">I", len(content)) + content)
def hear():
    size = struct.unpack(">I", line.recv(4, socket.MSG_WAITALL))[0]
    return json.loads(line.recv(size, socket.MSG_WAITALL))
"""
ANSWERS = """
say({"ready": True})
while True:
    asked = hear()
    values = [[key, os.environ.get("MLOPS_SECRET_KEY", "")] for key in asked["entities"]]
    say({"id": asked["id"], "features": [{"view": "v", "name": "n", "values": values, "gone": []}]})
"""
DIES = "say({'ready': True}); hear(); os._exit(9)"
NEVER_ANSWERS = "say({'ready': True}); hear(); hear()"
NEVER_STARTS = "os._exit(1)"
TOO_MUCH = "say({'ready': True}); hear(); say({'x': 'y' * 2000})"
FAILS = "say({'ready': True}); say({'id': hear()['id'], 'failed': 'OperationalError'}); hear()"


def asked_of(
    program: str, monkeypatch: pytest.MonkeyPatch, story: Callable[[FeatureClient], Awaitable[None]]
) -> None:
    command = (client.sys.executable, "-c", SPEAKS + program)
    monkeypatch.setattr(client, "COMMAND", command)

    async def told() -> None:
        asking = FeatureClient(Path("/nowhere"), seconds=20, answer_bytes=1000)
        try:
            await story(asking)
        finally:
            await asking.close()

    asyncio.run(told())


def test_one_process_answers_all_and_has_no_secret_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLOPS_SECRET_KEY", "hunter2")

    async def story(asking: FeatureClient) -> None:
        found = await asyncio.gather(*(asking.ask(QUESTION) for _ in range(5)))
        assert found == [[Feature("v", "n", [["customer_id", ""]], [])]] * 5

    asked_of(ANSWERS, monkeypatch, story)


@pytest.mark.parametrize("program", [DIES, TOO_MUCH, NEVER_STARTS, FAILS])
def test_a_process_that_ends_or_talks_nonsense_is_told_of(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async def story(asking: FeatureClient) -> None:
        with pytest.raises(FeaturesAway):
            await asking.ask(QUESTION)

    asked_of(program, monkeypatch, story)


def test_a_stuck_process_is_ended_and_the_next_question_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "STUCK_SECONDS", 0.1)

    async def story(asking: FeatureClient) -> None:
        asking._seconds = 0.2
        with pytest.raises(FeaturesLate):
            await asking.ask(QUESTION)
        monkeypatch.setattr(client, "COMMAND", (client.sys.executable, "-c", SPEAKS + ANSWERS))
        asking._seconds = 20
        assert await asking.ask(QUESTION)

    asked_of(NEVER_ANSWERS, monkeypatch, story)


def test_more_questions_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "UNDER_WAY_MOST", 1)

    async def story(asking: FeatureClient) -> None:
        first = asyncio.ensure_future(asking.ask(QUESTION))
        await asyncio.sleep(0)
        with pytest.raises(FeaturesBusy):
            await asking.ask(QUESTION)
        assert await first

    asked_of(ANSWERS, monkeypatch, story)


def test_an_answer_in_pieces_is_read_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        content = framed({"id": 1})
        for at in range(0, len(content), 3):
            theirs.sendall(content[at : at + 3])
        theirs.close()
        assert json.loads(_next(ours) or b"") == {"id": 1}
        assert _next(ours) is None
