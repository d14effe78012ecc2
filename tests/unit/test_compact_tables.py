"""Compact forms of models that take tables: text, missing values, encoders before a model."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

sys.path.append(str(Path(__file__).parents[2] / "sandbox" / "image"))

from make_compact import Kept, make  # noqa: E402
from served_compact import CompactModel, CompactUnreadable, pack, unpack  # noqa: E402
from served_desk import Batching, Desk  # noqa: E402
from served_estimators import SklearnLike  # noqa: E402
from served_inputs import Column  # noqa: E402
from served_lane import CompactDesk  # noqa: E402
from served_model import ServedModel  # noqa: E402
from served_parts import NoCompactForm  # noqa: E402
from served_signature import Signature  # noqa: E402

RNG = np.random.default_rng(1)
PEOPLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, 300),
        "income": np.where(RNG.random(300) < 0.1, np.nan, RNG.lognormal(10, 1, 300)),
        "plan": RNG.choice(["free", "pro", "team"], 300),
        "kids": RNG.choice([0, 1, 2], 300),
    }
)
LEFT = np.where((PEOPLE["age"] > 40) & (PEOPLE["plan"] != "free"), "yes", "no")
TYPES = {"age": "long", "income": "double", "plan": "string", "kids": "long"}
SIGNED = Signature(columns=tuple(Column(name, kind) for name, kind in TYPES.items()))
SINGLE = Signature(columns=tuple(Column(name, "float") for name in ("age", "income", "kids")))
NUMBERS = ["age", "income"]
ODD = [
    {"age": 30, "income": 20000.5, "plan": "pro", "kids": 1},
    {"age": 55, "income": None, "plan": "team", "kids": 0},
    {"age": 41, "income": 1.0, "plan": "nobody knows it", "kids": 2},
    {"age": 41, "income": 1.0, "plan": None, "kids": 2},
    {"age": None, "income": 1.0, "plan": "free", "kids": 7},
    {"age": 30, "income": 1e39, "plan": "pro", "kids": 1},
    {"age": 2**60 + 1, "income": 1.0, "plan": "pro", "kids": 1},
    {"age": "old", "income": 1.0, "plan": 5, "kids": True},
]


def usual(**encoder: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(**encoder))
    return make_column_transformer((numbers, NUMBERS), (texts, ["plan"]))


def strict() -> Any:
    return make_column_transformer(
        (StandardScaler(), ["age"]), (OneHotEncoder(drop="first"), ["plan", "kids"])
    )


def ordinal() -> Any:
    unknown = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_column_transformer((unknown, ["plan"]), remainder="passthrough")


KEPT = {
    "text and numbers before a regression": (
        lambda: make_pipeline(usual(handle_unknown="ignore"), LogisticRegression()),
        Signature(),
    ),
    "the same with a signature": (
        lambda: make_pipeline(usual(handle_unknown="ignore"), LogisticRegression()),
        SIGNED,
    ),
    "before a forest": (
        lambda: make_pipeline(
            usual(handle_unknown="infrequent_if_exist", min_frequency=80),
            RandomForestClassifier(8, random_state=0),
        ),
        SIGNED,
    ),
    "an encoder that refuses what it does not know": (
        lambda: make_pipeline(strict(), LogisticRegression()),
        Signature(),
    ),
    "ordinals before gradient boosting": (
        lambda: make_pipeline(ordinal(), HistGradientBoostingClassifier(max_iter=8)),
        SIGNED,
    ),
}


def served(model: Any, signature: Signature) -> ServedModel:
    like = SklearnLike(model, flavour="sklearn", signature=signature)
    return ServedModel(like, flavour="sklearn", has_probabilities=hasattr(model, "predict_proba"))


@cache
def tried(name: str) -> tuple[ServedModel, Kept]:
    """Once for all tests: a trial takes seconds."""
    make_model, signature = KEPT[name]
    model = served(make_model().fit(PEOPLE, LEFT), signature)
    return model, make(model)


def bodies(wanted: bool, columns: list[str]) -> list[bytes]:
    """Each odd row alone, the first with each of the others, and all at once."""
    odd = [{name: row[name] for name in columns} for row in ODD]
    shapes: list[Any] = [[row] for row in odd] + [[odd[0], row] for row in odd] + [odd, odd[:2]]
    shapes.append({name: PEOPLE[name].astype(object).tolist() for name in columns})
    shapes.append({"columns": columns, "data": [list(odd[0].values())]})
    text = [json.dumps({"inputs": shape, "return_probabilities": wanted}) for shape in shapes]
    return [body.replace("NaN", "null").encode() for body in text]


def without_time(content: bytes) -> Any:
    document = json.loads(content)
    document.pop("inference_time_ms", None)
    return document


def answered_alike(model: ServedModel, content: bytes, asked: list[bytes]) -> int:
    """How many requests the form answers; each as the model does."""
    ours = CompactDesk(CompactModel(content)).answer(asked, [0.0] * len(asked))
    theirs = Desk(model, Batching(False, "", 0)).answer(asked, [0.0] * len(asked))
    answered = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    assert [(a.status, without_time(a.body)) for a, _ in answered] == [
        (b.status, without_time(b.body)) for _, b in answered
    ]
    return sum(reply.status == 200 for reply, _ in answered)


@pytest.mark.parametrize("name", KEPT)
def test_a_model_of_text_and_numbers_answers_the_same_bits_from_its_compact_form(
    name: str,
) -> None:
    model, kept = tried(name)
    assert kept.proof["largest_difference"] == 0.0
    assert kept.proof["rows"] > 5000
    for wanted in (False, True):
        assert answered_alike(model, kept.content, bodies(wanted, list(PEOPLE))) >= 4


def test_what_an_encoder_refuses_is_left_to_the_original_and_its_words() -> None:
    _, kept = tried("an encoder that refuses what it does not know")
    unknown = [{"age": 30, "income": 1.0, "plan": "unheard of", "kids": 1}]
    body = json.dumps({"inputs": unknown}).encode()
    assert CompactDesk(CompactModel(kept.content)).answer([body], [0.0]) == [None]


def test_single_precision_is_compared_as_it_comes() -> None:
    frame = PEOPLE[["age", "income", "kids"]].fillna(0.0).astype("float32")
    for last in (DecisionTreeClassifier(max_depth=6), LogisticRegression()):
        model = served(make_pipeline(StandardScaler(), last).fit(frame, LEFT), SINGLE)
        kept = make(model)
        assert answered_alike(model, kept.content, bodies(True, list(frame))) >= 3


def test_a_function_of_its_authors_has_no_compact_form() -> None:
    steps = make_column_transformer((FunctionTransformer(np.log1p), ["age"]))
    model = served(make_pipeline(steps, Ridge()).fit(PEOPLE, PEOPLE["age"]), SIGNED)
    with pytest.raises(NoCompactForm, match="a function of its author's"):
        make(model)


@pytest.fixture(scope="module")
def form() -> tuple[dict[str, Any], dict[str, Any]]:
    return unpack(tried("the same with a signature")[1].content)


def deep(levels: int) -> list[Any]:
    steps: list[Any] = []
    for _ in range(levels):
        steps = [{"kind": "split", "branches": [{"columns": [0], "steps": steps}]}]
    return steps


@pytest.mark.parametrize(
    "steps",
    [
        [{"kind": "exec", "at": "s0"}],
        [{"kind": "standard"}],
        [{"kind": "one_hot", "at": "s0", "columns": [], "width": 10**12}],
        [{"kind": "one_hot", "at": "s0", "columns": [], "width": float("inf")}],
        [{"kind": "split", "branches": [{"columns": [10**9], "steps": [{"kind": "x"}]}]}],
        ["numbers"],
        deep(50),
    ],
)
def test_a_forged_form_with_steps_that_are_none_is_not_read(
    form: tuple[dict[str, Any], dict[str, Any]], steps: Any
) -> None:
    about, arrays = form
    with pytest.raises(CompactUnreadable):
        CompactModel(pack({**about, "steps": steps}, arrays))


def test_a_form_with_a_byte_changed_anywhere_is_read_or_refused_and_ends_nothing(
    form: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    content = pack(*form)
    refused = 0
    for place in range(0, len(content), 23):
        changed = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        try:
            CompactModel(changed)
        except CompactUnreadable:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("columns", [[10**9], [-9], ["plan"], None])
def test_a_forged_form_fails_its_own_requests_and_nothing_else(
    form: tuple[dict[str, Any], dict[str, Any]], columns: Any
) -> None:
    about, arrays = form
    steps = [{"kind": "split", "branches": [{"columns": columns, "steps": []}]}]
    desk = CompactDesk(CompactModel(pack({**about, "steps": steps}, arrays)))
    row = {"age": 30, "income": 1.0, "plan": "pro", "kids": 1}
    replies = desk.answer([json.dumps({"inputs": [row]}).encode()], [0.0])
    assert [reply and reply.status for reply in replies] == [500]


def test_the_lanes_process_needs_neither_pandas_nor_scikit_learn() -> None:
    image = Path(__file__).parents[2] / "sandbox" / "image"
    for name in ("served_columns.py", "served_scores.py", "served_compact.py", "served_trees.py"):
        lines = (image / name).read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import pandas", "from sklearn"))]
