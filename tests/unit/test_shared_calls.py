"""Requests that share a call: the same bits as alone, and nobody pays for a neighbour."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import mlflow.lightgbm
import mlflow.pyfunc
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

sys.path.append(str(Path(__file__).parents[2] / "sandbox" / "image"))

import served_desk  # noqa: E402
import served_queue  # noqa: E402
from served_desk import Batching, Desk  # noqa: E402
from served_http import Reply  # noqa: E402
from served_open import Opened, opened  # noqa: E402
from served_queue import Queue, Return  # noqa: E402

FEATURES, LABELS = make_classification(n_samples=200, n_features=6, random_state=3)
NAMED = pd.DataFrame(FEATURES, columns=list("abcdef"))
PEOPLE = pd.DataFrame({"age": [25, 35, 45, 50] * 10, "plan": ["a", "b", "a", "c"] * 10})
LEFT = np.array(["no", "yes", "no", "yes"] * 10)
SIZES = (1, 3, 1, 2, 7, 1, 40)


@pytest.fixture(autouse=True)
def _quick_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would guess the requirements in a process of its own, for seconds each time."""
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "0")


class Around(ClassifierMixin, BaseEstimator):
    """An estimator that nobody knows."""

    def fit(self, features: Any, labels: Any) -> "Around":
        self.inner_ = RandomForestClassifier(5, random_state=0).fit(features, labels)
        self.classes_ = self.inner_.classes_
        self.n_features_in_ = features.shape[1]
        return self

    def predict(self, features: Any) -> Any:
        return self.inner_.predict(features)

    def predict_proba(self, features: Any) -> Any:
        return self.inner_.predict_proba(features)


class Doubles(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input["age"].to_numpy() * 2.5


class AgainstTheMean(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return (model_input["age"] > model_input["age"].mean()).to_numpy()


def save_sklearn(model: Any, folder: Path) -> None:
    mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle")


def save_pyfunc(model: Any, folder: Path) -> None:
    signature = mlflow.models.infer_signature(PEOPLE)
    mlflow.pyfunc.save_model(folder, python_model=model, signature=signature)


def people_model() -> Any:
    encode = (OneHotEncoder(handle_unknown="ignore"), ["plan"])
    columns = make_column_transformer(encode, remainder=StandardScaler())
    return make_pipeline(columns, RandomForestClassifier(5, random_state=0)).fit(PEOPLE, LEFT)


def numbers(rows: int) -> Any:
    return np.random.default_rng(rows).normal(size=(rows, 6)).tolist()


def people(rows: int) -> Any:
    return {"age": list(range(20, 20 + rows)), "plan": list(("abc" * rows)[:rows])}


MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any, Path], None], Callable[[int], Any]]] = {
    "forest": (
        lambda: RandomForestClassifier(5, random_state=0).fit(FEATURES, LABELS),
        save_sklearn,
        numbers,
    ),
    "forest with names": (
        lambda: RandomForestClassifier(5, random_state=0).fit(NAMED, LABELS),
        save_sklearn,
        lambda rows: pd.DataFrame(numbers(rows), columns=NAMED.columns).to_dict("list"),
    ),
    "custom": (lambda: Around().fit(FEATURES, LABELS), save_sklearn, numbers),
    "pipeline": (people_model, save_sklearn, people),
    "xgboost": (
        lambda: xgboost.XGBClassifier(n_estimators=5).fit(FEATURES, LABELS),
        mlflow.xgboost.save_model,
        numbers,
    ),
    "lightgbm": (
        lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(FEATURES, LABELS),
        mlflow.lightgbm.save_model,
        numbers,
    ),
    "pyfunc": (Doubles, save_pyfunc, people),
}


def body(inputs: Any, *, probabilities: bool = False) -> bytes:
    return json.dumps({"inputs": inputs, "return_probabilities": probabilities}).encode()


def said(reply: Reply) -> Any:
    document = json.loads(reply.body)
    return {name: document[name] for name in ("predictions", "probabilities", "classes")}


def opened_model(name: str, folder: Path) -> tuple[Opened, Callable[[int], Any]]:
    make, save, inputs = MODELS[name]
    save(make(), folder / "model")
    return opened(folder / "model", lambda phase: None), inputs


@pytest.mark.parametrize("name", MODELS)
def test_requests_that_share_a_call_are_answered_the_same_bits_as_alone(
    name: str, tmp_path: Path
) -> None:
    found, inputs = opened_model(name, tmp_path)
    desk = Desk(found.model, found.batching)
    probabilities = found.model.has_probabilities
    bodies = [body(inputs(size), probabilities=probabilities) for size in SIZES]
    alone = [desk.answer([one], [0.0])[0] for one in bodies]
    desk.answer(bodies, [0.0] * len(bodies))
    together = desk.answer(bodies, [0.0] * len(bodies))
    assert found.batching.on, found.batching.reason
    assert {reply.headers["x-mlops-batch-rows"] for reply in together} == {str(sum(SIZES))}
    assert [said(reply) for reply in together] == [said(reply) for reply in alone]


def test_a_model_whose_answer_depends_on_the_other_rows_is_asked_alone(tmp_path: Path) -> None:
    save_pyfunc(AgainstTheMean(), tmp_path / "model")
    found = opened(tmp_path / "model", lambda phase: None)
    bodies = [body(people(size)) for size in SIZES]
    replies = Desk(found.model, found.batching).answer(bodies, [0.0] * len(bodies))
    assert found.batching == Batching(
        on=False, reason="Its answer to a row depends on the rows beside it.", most_rows=0
    )
    assert {reply.headers["x-mlops-batch-requests"] for reply in replies} == {"1"}


def test_a_trial_that_saw_nothing_is_put_right_by_the_first_call_that_differs(
    tmp_path: Path,
) -> None:
    save_pyfunc(AgainstTheMean(), tmp_path / "model")
    model = opened(tmp_path / "model", lambda phase: None).model
    desk = Desk(model, Batching(on=True, reason="", most_rows=100))
    bodies = [body({"age": [20, 30], "plan": ["a", "b"]}), body({"age": [80], "plan": ["a"]})]
    replies = desk.answer(bodies, [0.0, 0.0])
    assert [said(reply)["predictions"] for reply in replies] == [[False, True], [False]]
    assert not desk.batching.on


def test_a_model_that_begins_to_differ_later_is_found_out_and_the_answer_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pyfunc(AgainstTheMean(), tmp_path / "model")
    model = opened(tmp_path / "model", lambda phase: None).model
    desk = Desk(model, Batching(on=True, reason="", most_rows=100))
    same = [body({"age": [20, 30], "plan": ["a", "b"]}) for _ in range(6)]
    desk.answer(same, [0.0] * 6)
    assert desk.batching.on, "each alone has the mean of all"
    desk._calls_together = served_desk.CHECK_EVERY
    monkeypatch.setattr(served_desk.random, "sample", lambda places, count: [*places][-count:])
    bodies = [*same, body({"age": [80], "plan": ["a"]})]
    replies = desk.answer(bodies, [0.0] * 7)
    assert [said(reply)["predictions"] for reply in replies] == [*[[False, True]] * 6, [False]]
    assert not desk.batching.on


def test_one_bad_row_fails_its_own_request_and_no_neighbour(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, LABELS)
    save_sklearn(model, tmp_path / "model")
    found = opened(tmp_path / "model", lambda phase: None)
    desk = Desk(found.model, Batching(on=True, reason="", most_rows=100))
    missing = [[None] * 6]
    bodies = [body(numbers(2)), body(missing), body([["x"] * 6]), body(numbers(3)), b"{"]
    replies = desk.answer(bodies, [0.0] * len(bodies))
    assert [reply.status for reply in replies] == [200, 400, 400, 200, 400]
    assert said(replies[0])["predictions"] == model.predict(numbers(2)).tolist()
    assert "NaN" in json.loads(replies[1].body)["detail"]


# -- the queue ------------------------------------------------------------------------------------


class Asked:
    """A request without a connection."""

    def __init__(self, content: bytes = b"x") -> None:
        self.body = content
        self.arrived = 0.0
        self.gone = False
        self.replies: list[Reply] = []

    def answer(self, reply: Reply) -> None:
        self.replies.append(reply)


class Slow:
    """Answers when it is let, and remembers who came together."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.release = asyncio.Event()

    def answer(self, bodies: Sequence[bytes], queued: Sequence[float]) -> list[Reply]:
        self.calls.append(list(bodies))
        self._loop.call_soon_threadsafe(self.entered.set)
        asyncio.run_coroutine_threadsafe(self.release.wait(), self._loop).result()
        return [Reply(200, one) for one in bodies]


@pytest.fixture
def queue_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Queue]]:
    monkeypatch.setattr(served_queue, "WAIT_SECONDS", float("inf"))
    threads = ThreadPoolExecutor(1)
    yield lambda desk: Queue(desk, threads, otherwise=lambda exchange: None)
    threads.shutdown()


async def at_work(queue_of: Callable[..., Queue]) -> tuple[Slow, Queue, Asked]:
    """A queue whose desk has been entered with a first request, and has not answered."""
    desk, first = Slow(), Asked(b"1")
    queue = queue_of(desk)
    queue.put(first)
    await desk.entered.wait()
    return desk, queue, first


async def settled(*asked: Asked) -> None:
    async with asyncio.timeout(30):
        while not all(one.replies for one in asked):
            await asyncio.sleep(0.001)


def test_what_arrives_during_a_call_goes_into_the_next_one_together(
    queue_of: Callable[..., Queue],
) -> None:
    async def scene() -> None:
        desk, queue, first = await at_work(queue_of)
        second, third = Asked(b"2"), Asked(b"3")
        queue.put(second)
        queue.put(third)
        desk.release.set()
        await settled(first, second, third)
        assert desk.calls == [[b"1"], [b"2", b"3"]]
        assert [one.replies[0].body for one in (first, second, third)] == [b"1", b"2", b"3"]

    asyncio.run(scene())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes every call worth waiting after, for so many seconds."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr(served_queue, "INLINE_SECONDS", 0.0)
        monkeypatch.setattr(served_queue, "RETURN_SHARE", float("inf"))
        monkeypatch.setattr(served_queue, "RETURN_SECONDS", seconds)

    return wait


def test_who_was_answered_and_asks_again_at_once_shares_the_next_call(
    queue_of: Callable[..., Queue], patient: Callable[[float], None]
) -> None:
    """Else they and those who waited meanwhile would take turns, in calls for half of them."""
    patient(30)

    async def scene() -> None:
        desk, queue, first = await at_work(queue_of)
        second, again = Asked(b"2"), Asked(b"1 again")
        queue.put(second)
        desk.release.set()
        await settled(first)
        queue.put(again)
        await settled(second, again)
        assert desk.calls == [[b"1"], [b"2", b"1 again"]]

    asyncio.run(scene())


def test_who_waits_is_answered_soon_though_nobody_comes_again(
    queue_of: Callable[..., Queue], patient: Callable[[float], None]
) -> None:
    patient(0.02)

    async def scene() -> None:
        desk, queue, first = await at_work(queue_of)
        second = Asked(b"2")
        queue.put(second)
        desk.release.set()
        await settled(first, second)
        assert desk.calls == [[b"1"], [b"2"]]

    asyncio.run(scene())


def returning(*, answered: int, waiting: int, spent: float = 0.008) -> Return:
    """Who is waited for after a call that ended at 10 s."""
    made = Return()
    made.answered(answered, waiting=waiting, spent=spent, now=10.0)
    return made


def test_those_who_were_answered_are_waited_for_a_quarter_of_their_call() -> None:
    made = returning(answered=4, waiting=3)
    assert made.wait_until(3, now=10.0) == pytest.approx(10.002)
    assert made.wait_until(6, now=10.001) == pytest.approx(10.002)
    assert made.wait_until(7, now=10.001) is None, "all are there"
    assert made.wait_until(3, now=10.003) is None, "it took too long"
    assert returning(answered=4, waiting=3, spent=4.0).wait_until(3, now=10.0) == 10.01


def test_a_client_that_is_alone_never_waits() -> None:
    assert returning(answered=1, waiting=0).wait_until(1, now=10.0) is None


def test_nobody_is_waited_for_after_a_call_that_cost_next_to_nothing() -> None:
    assert returning(answered=4, waiting=3, spent=0.001).wait_until(3, now=10.0) is None


def test_clients_who_do_not_come_again_are_not_waited_for_a_while() -> None:
    made = returning(answered=4, waiting=3)
    made.over(4)
    for _ in range(served_queue.CALLS_WITHOUT):
        assert made.wait_until(1, now=10.0) is None
        made.answered(4, waiting=3, spent=0.008, now=10.0)
    assert made.wait_until(3, now=10.0) is None
    made.answered(4, waiting=3, spent=0.008, now=10.0)
    assert made.wait_until(3, now=10.0) is not None
    made.over(6)
    made.answered(4, waiting=3, spent=0.008, now=10.0)
    assert made.wait_until(3, now=10.0) is not None, "most of them came"


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    queue_of: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_queue, "MAX_WAITING", 2)

    async def scene() -> None:
        desk, queue, first = await at_work(queue_of)
        waiting = [first, Asked(), Asked()]
        queue.put(waiting[1])
        queue.put(waiting[2])
        refused = Asked()
        queue.put(refused)
        assert [reply.status for reply in refused.replies] == [503]
        assert refused.replies[0].headers["retry-after"] == "1"
        desk.release.set()
        await settled(*waiting)

    asyncio.run(scene())


def test_whoever_went_away_is_not_asked_for(queue_of: Callable[..., Queue]) -> None:
    async def scene() -> None:
        desk, queue, first = await at_work(queue_of)
        gone, last = Asked(b"2"), Asked(b"3")
        queue.put(gone)
        queue.put(last)
        gone.gone = True
        desk.release.set()
        await settled(first, last)
        assert desk.calls == [[b"1"], [b"3"]]

    asyncio.run(scene())
