"""CatBoost's own shapes and errors, by a stand-in: the package is too large for the tests."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "sandbox" / "image"))

from served_catboost import CatBoosted, open_catboost  # noqa: E402
from served_inputs import InputsRefused  # noqa: E402
from served_model import ServedModel  # noqa: E402
from served_signature import Signature  # noqa: E402


class CatBoostError(Exception):
    """No ValueError, as CatBoost's own is none."""


class CatBoostClassifier:
    """Of three classes, whose labels come in lists of one, as they did from 1.2.10."""

    feature_names_ = ("age", "plan")
    classes_ = np.array(["a", "b", "c"])

    def __init__(self, categories: tuple[int, ...] = ()) -> None:
        self._categories = categories
        self.opened = ()

    def load_model(self, path: str, form: str) -> None:
        self.opened = (Path(path).name, form)

    def get_cat_feature_indices(self) -> list[int]:
        return list(self._categories)

    def get_text_feature_indices(self) -> list[int]:
        return []

    def get_embedding_feature_indices(self) -> list[int]:
        return []

    def predict(self, rows: Any, thread_count: int) -> Any:
        if len(rows) > 2:
            raise CatBoostError("features_data.cpp:3: too many\nfor me")
        return np.array([["b"]] * len(rows), dtype=object)

    def predict_proba(self, rows: Any, thread_count: int) -> Any:
        return np.array([[0.2, 0.5, 0.3]] * len(rows))


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = types.ModuleType("catboost")
    package.CatBoostError = CatBoostError
    package.CatBoostClassifier = CatBoostClassifier
    monkeypatch.setitem(sys.modules, "catboost", package)


def served(*categories: int) -> ServedModel:
    like = CatBoosted(CatBoostClassifier(categories), signature=Signature())
    return ServedModel(like, flavour="catboost", has_probabilities=like.classes is not None)


def test_labels_are_no_lists_and_probabilities_come_with_their_classes() -> None:
    answer = served().predict({"age": [1, 2], "plan": [3, 4]}, probabilities=True)
    assert answer.predictions == ["b", "b"]
    assert answer.probabilities == [[0.2, 0.5, 0.3]] * 2
    assert answer.classes == ["a", "b", "c"]


def test_text_is_taken_only_where_a_column_has_categories() -> None:
    inputs = {"age": [1], "plan": ["pro"]}
    assert served(1).predict(inputs, probabilities=False).predictions == ["b"]
    with pytest.raises(InputsRefused, match="expected a number"):
        served().predict(inputs, probabilities=False)


def test_what_catboost_refuses_is_the_inputs_fault() -> None:
    with pytest.raises(InputsRefused, match="The model refused the inputs"):
        served().predict({"age": [1] * 3, "plan": [1] * 3}, probabilities=False)


def test_it_is_opened_by_its_class_in_the_format_that_it_was_saved_in(tmp_path: Path) -> None:
    about = {"model_type": "CatBoostClassifier", "data": "model.cb", "save_format": "json"}
    assert open_catboost(tmp_path, about).opened == ("model.cb", "json")
    assert open_catboost(tmp_path, {**about, "model_type": "os"}) is None
