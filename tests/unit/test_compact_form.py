"""The compact form of a model: kept only where every bit agrees, and read without trusting it."""

import io
import json
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

sys.path.append(str(Path(__file__).parents[2] / "sandbox" / "image"))

import make_compact  # noqa: E402
import served_compact  # noqa: E402
from make_compact import make  # noqa: E402
from served_compact import CompactModel, CompactUnreadable, unpack  # noqa: E402
from served_desk import Batching, Desk  # noqa: E402
from served_estimators import SklearnLike  # noqa: E402
from served_inputs import InputsRefused  # noqa: E402
from served_lane import CompactDesk, read_compact, read_refusal  # noqa: E402
from served_model import ServedModel  # noqa: E402
from served_parts import NoCompactForm, candidates_of  # noqa: E402
from served_signature import Signature  # noqa: E402
from served_trees import Trees, TreesUnreadable  # noqa: E402

from inference import model_files  # noqa: E402
from tests.fixtures.model_server import answers_ready, started, until  # noqa: E402

FEATURES, LABELS = make_classification(
    n_samples=300, n_features=8, n_informative=5, n_classes=3, random_state=4
)
_, AMOUNTS = make_regression(300, 8, random_state=5)
NAMED = pd.DataFrame(FEATURES, columns=[f"f{place}" for place in range(8)])
WORDS = np.array(["low", "middle", "high"])[LABELS]
KEPT = {
    "logistic": lambda: LogisticRegression().fit(FEATURES, LABELS > 0),
    "logistic of words, after a scaler, with names": lambda: make_pipeline(
        StandardScaler(), LogisticRegression()
    ).fit(NAMED, WORDS),
    "ridge after a scaler": lambda: make_pipeline(MinMaxScaler(), Ridge()).fit(FEATURES, AMOUNTS),
    "linear, with names": lambda: LinearRegression().fit(NAMED, AMOUNTS),
    "forest of words, with names": lambda: RandomForestClassifier(10, random_state=0).fit(
        NAMED, WORDS
    ),
    "extra trees": lambda: ExtraTreesRegressor(10, random_state=0).fit(FEATURES, AMOUNTS),
    "boosted in two classes": lambda: xgboost.XGBClassifier(n_estimators=8).fit(
        FEATURES, LABELS > 0
    ),
    "boosted in three classes": lambda: xgboost.XGBClassifier(n_estimators=8).fit(FEATURES, LABELS),
    "boosted by scikit-learn": lambda: GradientBoostingRegressor(n_estimators=8).fit(
        FEATURES, AMOUNTS
    ),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=8).fit(NAMED, WORDS),
    "one tree of words": lambda: DecisionTreeClassifier(max_depth=6).fit(NAMED, WORDS),
    "imputer, scaler and logistic": lambda: make_pipeline(
        SimpleImputer(), StandardScaler(), LogisticRegression()
    ).fit(FEATURES, WORDS),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(
        FEATURES, LABELS > 0
    ),
}


def served(model: Any) -> ServedModel:
    module = type(model).__module__.partition(".")[0]
    flavour = module if module in ("lightgbm", "xgboost") else "sklearn"
    like = SklearnLike(model, flavour=flavour, signature=Signature())
    return ServedModel(like, flavour=flavour, has_probabilities=hasattr(model, "predict_proba"))


def bodies(model: ServedModel) -> list[bytes]:
    """Rows, columns and records, a missing value, text, whole numbers, too few columns."""
    rows = np.random.default_rng(6).normal(size=(5, 8)).round(3).tolist()
    names = [column.name for column in model.estimator.expected.columns or ()]
    shapes: list[Any] = [rows, rows[:1], [[1] * 8], [[None, *[0.5] * 7]], [["x"] * 8], [[1.0] * 7]]
    if names:
        shapes.append({name: [row[place] for row in rows] for place, name in enumerate(names)})
        shapes.append([dict(zip(names, row, strict=True)) for row in rows])
        shapes.append({"columns": names, "data": rows})
    return [
        json.dumps({"inputs": shape, "return_probabilities": wanted}).encode()
        for shape in shapes
        for wanted in (False, model.has_probabilities)
    ]


def without_time(content: bytes) -> Any:
    document = json.loads(content)
    document.pop("inference_time_ms", None)
    return document


@pytest.mark.parametrize("name", KEPT)
def test_a_form_that_is_kept_answers_every_request_as_the_model_does(name: str) -> None:
    model = served(KEPT[name]())
    kept = make(model)
    asked = bodies(model)
    ours = CompactDesk(CompactModel(kept.content)).answer(asked, [0.0] * len(asked))
    theirs = Desk(model, Batching(False, "", 0)).answer(asked, [0.0] * len(asked))
    answered = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    assert len(answered) >= len(asked) - 2
    assert [(a.status, without_time(a.body)) for a, _ in answered] == [
        (b.status, without_time(b.body)) for _, b in answered
    ]
    assert kept.proof["rows"] > 5000
    assert kept.proof["largest_difference"] == 0.0


def test_numbers_that_differ_are_refused_unless_the_operator_allows_a_difference() -> None:
    """XGBoost's probabilities by numpy's exponential, which has other bits than libm's."""
    model = served(KEPT["boosted in two classes"]())
    forms = [one for one in candidates_of(model) if one.about["link"] == "logistic_of_libm"]
    other = replace(forms[0], about={**forms[0].about, "link": "logistic"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_compact, "candidates_of", lambda _: iter([other]))
        with pytest.raises(NoCompactForm, match="numbers differ, by"):
            make(model)
        kept = make(model, tolerance=1e-6)
    assert 0 < kept.proof["largest_difference"] <= 1e-6


def test_a_class_of_ones_own_has_no_compact_form_whatever_it_is_derived_from() -> None:
    class Contrary(RandomForestClassifier):
        def predict(self, X: Any) -> Any:
            return super().predict(X)[::-1]

    model = served(Contrary(5).fit(FEATURES, LABELS))
    with pytest.raises(NoCompactForm):
        make(model)


def test_what_was_not_compared_is_left_to_the_original() -> None:
    model = served(KEPT["extra trees"]())
    content = make(model).content
    compact = CompactModel(content)
    assert compact.prepare([[1e39] + [0.0] * 7]) is None
    about, arrays = unpack(content)
    few = CompactModel(served_compact.pack({**about, "rows_most": 2}, arrays))
    assert few.prepare([[0.0] * 8] * 2) is not None
    assert few.prepare([[0.0] * 8] * 3) is None


class Bomb:
    def __reduce__(self) -> Any:
        return os._exit, (77,)


def test_a_form_with_a_pickle_in_it_is_not_opened(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, about=np.array([Bomb()], dtype=object))
    with pytest.raises(CompactUnreadable):
        CompactModel(file.getvalue())
    (tmp_path / served_compact.OURS).mkdir()
    (tmp_path / served_compact.OURS / served_compact.COMPACT).write_bytes(file.getvalue())
    assert read_compact(tmp_path) is None


def test_a_form_that_would_fill_the_memory_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"zeros{number}.npy", b"\0" * (64 * 1024**2))
    with pytest.raises(CompactUnreadable, match="too large"):
        unpack(file.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", os.urandom(64)])
def test_what_is_no_form_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(CompactUnreadable):
        CompactModel(content)


def test_trees_refuse_a_matrix_of_another_width() -> None:
    _, arrays = unpack(make(served(KEPT["extra trees"]())).content)
    with pytest.raises(TreesUnreadable):
        Trees(arrays["trees"].tobytes()).answer(np.zeros((1, 7)))


def test_missing_values_are_refused_in_the_originals_own_words() -> None:
    model = served(KEPT["logistic"]())
    with pytest.raises(InputsRefused) as ours:
        CompactModel(make(model).content).prepare([[None] * 8])
    with pytest.raises(InputsRefused) as theirs:
        model.predict([[None] * 8], probabilities=False)
    assert ours.value.detail == theirs.value.detail


def test_a_trial_that_was_lost_is_remembered(tmp_path: Path) -> None:
    (tmp_path / served_compact.OURS).mkdir()
    told = {"state": "refused", "reason": "No.", "proof": None}
    (tmp_path / served_compact.OURS / served_compact.OUTCOME).write_text(json.dumps(told))
    lane = read_refusal(tmp_path)
    assert lane is not None
    assert lane.document() == told


def test_platform_and_container_agree_on_where_a_form_is_kept() -> None:
    ours = (model_files.OURS, model_files.COMPACT, model_files.OUTCOME)
    assert ours == (served_compact.OURS, served_compact.COMPACT, served_compact.OUTCOME)


def test_a_server_answers_from_the_form_alone_and_opens_the_model_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "0")
    model = KEPT["logistic"]()
    mlflow.sklearn.save_model(model, tmp_path / "model", serialization_format="cloudpickle")
    kept = tmp_path / "model" / served_compact.OURS
    kept.mkdir()
    (kept / served_compact.COMPACT).write_bytes(make(served(model)).content)
    server = started(tmp_path / "model")
    try:
        until(lambda: answers_ready(server))
        plain, beyond = [[0.5] * 8], [[1e39] + [0.0] * 7]
        first = server.predict({"inputs": plain, "return_probabilities": True})
        assert first.headers["x-mlops-lane"] == "compact"
        assert first.json()["probabilities"] == model.predict_proba(plain).tolist()
        assert server.get("/ready").json()["original_loaded"] is False
        second = server.predict({"inputs": beyond, "return_probabilities": True})
        assert second.headers["x-mlops-lane"] == "original"
        assert second.json()["probabilities"] == model.predict_proba(beyond).tolist()
        assert server.get("/ready").json()["original_loaded"] is True
    finally:
        server.process.kill()
        server.process.communicate()
