"""The model server: real models, loaded as a container would, asked over real HTTP."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import sklearn
import yaml
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.fixtures.model_server import (
    IMAGE_FOLDER,
    START_SECONDS,
    Server,
    answers_ready,
    started,
    until,
)

# As in the container, where these files lie side by side in one folder.
sys.path.append(str(IMAGE_FOLDER))

from served_desk import Batching, Desk  # noqa: E402
from served_inputs import InputsRefused  # noqa: E402
from served_model import ServedModel, load, plain  # noqa: E402

PEOPLE = pd.DataFrame({"age": [25, 35, 45, 50] * 10, "plan": ["a", "b", "a", "c"] * 10})
LEFT = np.array(["no", "yes", "no", "yes"] * 10)


def saved(model: Any, folder: Path, **options: Any) -> Path:
    mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", **options)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _quick_saving() -> Iterator[None]:
    """MLflow would guess the requirements in a process of its own, for seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "0")
        yield


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    features, labels = make_classification(n_samples=300, n_features=20, random_state=42)
    return RandomForestClassifier(n_estimators=30, random_state=42, n_jobs=2).fit(features, labels)


@pytest.fixture(scope="module")
def forest_folder(forest: RandomForestClassifier, tmp_path_factory: Any) -> Path:
    return saved(forest, tmp_path_factory.mktemp("forest") / "model")


@pytest.fixture(scope="module")
def served_forest(forest_folder: Path) -> ServedModel:
    return load(forest_folder, lambda phase: None)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    encode = (OneHotEncoder(handle_unknown="ignore"), ["plan"])
    columns = make_column_transformer(encode, remainder=StandardScaler())
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, LEFT)


@pytest.fixture(scope="module")
def served_pipeline(pipeline: Any, tmp_path_factory: Any) -> ServedModel:
    folder = saved(pipeline, tmp_path_factory.mktemp("pipeline") / "model")
    return load(folder, lambda phase: None)


@pytest.fixture(scope="module")
def served_with_signature(pipeline: Any, tmp_path_factory: Any) -> ServedModel:
    signature = mlflow.models.infer_signature(PEOPLE)
    folder = saved(pipeline, tmp_path_factory.mktemp("signed") / "model", signature=signature)
    return load(folder, lambda phase: None)


def refusal(model: ServedModel, inputs: Any, *, probabilities: bool = False) -> InputsRefused:
    with pytest.raises(InputsRefused) as caught:
        model.predict(inputs, probabilities=probabilities)
    return caught.value


def test_a_forest_answers_exactly_what_it_answers_in_a_plain_process(
    served_forest: ServedModel, forest: RandomForestClassifier
) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 20))
    answer = served_forest.predict(rows.tolist(), probabilities=True)
    assert answer.predictions == forest.predict(rows).tolist()
    assert answer.probabilities == forest.predict_proba(rows).tolist()
    assert answer.classes == [0, 1]


def test_columns_records_and_rows_are_three_shapes_of_one_table(
    served_pipeline: ServedModel, pipeline: Any
) -> None:
    records = PEOPLE.head(4).to_dict(orient="records")
    columns = {"plan": ["a", "b", "a", "c"], "age": [25, 35, 45, 50]}
    rows = PEOPLE.head(4).values.tolist()
    answers = [
        served_pipeline.predict(inputs, probabilities=True) for inputs in (records, columns, rows)
    ]
    wanted = pipeline.predict_proba(PEOPLE.head(4)).tolist()
    assert [answer.probabilities for answer in answers] == [wanted] * 3
    assert answers[0].predictions == pipeline.predict(PEOPLE.head(4)).tolist()
    assert answers[0].classes == ["no", "yes"]


def test_a_wrong_count_of_columns_names_both_numbers_and_the_columns_that_came(
    served_forest: ServedModel,
) -> None:
    refused = refusal(served_forest, {"feature_0": [1.0, 2.0], "feature_1": [3.0, 4.0]})
    assert refused.detail == "expected 20 features, got 2: feature_0, feature_1"


def test_missing_and_unexpected_columns_are_both_named(served_pipeline: ServedModel) -> None:
    refused = refusal(served_pipeline, [{"age": 30, "town": "x"}])
    assert "expected columns age, plan" in refused.detail
    assert "missing: plan" in refused.detail
    assert "unexpected: town" in refused.detail
    assert [error["field"] for error in refused.errors] == ["inputs.plan", "inputs.town"]


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "inputs_empty"),
        ([], "inputs_empty"),
        ([[]], "inputs_empty"),
        ([{}], "inputs_empty"),
        ({"a": []}, "inputs_empty"),
        ({"a": [1, 2], "b": [1]}, "inputs_ragged"),
        ([[1, 2], [1]], "inputs_ragged"),
        ([{"a": 1}, {"b": 1}], "inputs_ragged"),
        ({"a": 1}, "inputs_unknown_shape"),
        ([1, 2], "inputs_unknown_shape"),
        ([[1], {"a": 1}], "inputs_unknown_shape"),
        ("text", "inputs_unknown_shape"),
        (None, "inputs_unknown_shape"),
    ],
)
def test_what_is_no_table_is_refused_with_its_reason(
    served_forest: ServedModel, inputs: Any, code: str
) -> None:
    refused = refusal(served_forest, inputs)
    assert refused.code == code
    assert refused.errors
    assert all(error["field"].startswith("inputs") for error in refused.errors)


def test_one_value_is_not_called_values(served_forest: ServedModel) -> None:
    refused = refusal(served_forest, [[1, 2], [1]])
    assert "row 0 has 2 values, row 1 has 1 value." in refused.detail
    assert "is a list of numbers" in refusal(served_forest, [1, 2]).detail


def test_text_where_a_number_belongs_is_named_with_column_row_and_value(
    served_forest: ServedModel, served_with_signature: ServedModel
) -> None:
    row = [0.0] * 20
    by_place = refusal(served_forest, [row, [*row[:3], "abc", *row[4:]]])
    by_name = refusal(served_with_signature, {"age": [25, "old"], "plan": ["a", "b"]})
    assert by_place.errors[0] == {
        "field": "inputs.3",
        "detail": "row 1: expected a number, got 'abc'",
    }
    assert by_name.detail == "inputs.age: row 1: expected a number, got 'old'"


def test_wrong_columns_wrong_cells_and_a_wish_that_cannot_be_met_are_told_together(
    served_with_signature: ServedModel, tmp_path: Path
) -> None:
    refused = refusal(served_with_signature, {"age": ["old", 25.5], "town": ["x", "y"]})
    assert refused.code == "columns_mismatch"
    assert [(error["field"], error["detail"]) for error in refused.errors] == [
        ("inputs.plan", "missing"),
        ("inputs.town", "the model has no such column"),
        ("inputs.age", "row 0: expected a number, got 'old'"),
        ("inputs.age", "row 1: expected a whole number, got 25.5"),
    ]
    assert "expected columns age, plan; got age, town" in refused.detail

    ragged = refusal(served_with_signature, {"age": [1, 2], "town": ["x"]})
    assert ragged.code == "inputs_ragged"
    assert ("inputs.plan", "missing") in [
        (error["field"], error["detail"]) for error in ragged.errors
    ]

    model = LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])
    served = load(saved(model, tmp_path / "model"), lambda phase: None)
    both = refusal(served, [["a", 2]], probabilities=True)
    assert [error["field"] for error in both.errors] == [
        "inputs",
        "inputs.0",
        "return_probabilities",
    ]


def test_a_number_where_the_signature_has_text_or_a_fraction_for_a_whole_number_is_refused(
    served_with_signature: ServedModel,
) -> None:
    refused = refusal(served_with_signature, {"age": [25.5], "plan": [3]})
    assert [error["field"] for error in refused.errors] == ["inputs.age", "inputs.plan"]


def test_without_a_signature_the_models_own_refusal_names_the_cell(
    served_pipeline: ServedModel,
) -> None:
    refused = refusal(served_pipeline, {"age": [25, "old"], "plan": ["a", "b"]})
    assert refused.code == "model_refused_inputs"
    assert refused.errors == [{"field": "inputs.age", "detail": "row 1: 'old'"}]


def test_a_missing_number_is_taken_by_a_model_that_knows_them_and_refused_by_one_that_does_not(
    served_forest: ServedModel, served_pipeline: ServedModel
) -> None:
    row = [None, *[0.0] * 19]
    assert len(served_forest.predict([row], probabilities=False).predictions) == 1
    refused = refusal(served_pipeline, {"age": [None], "plan": ["a"]})
    assert refused.detail == "The model refused the inputs: Input X contains NaN."


def test_a_model_without_probabilities_says_so_and_names_its_type(tmp_path: Path) -> None:
    model = LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])
    served = load(saved(model, tmp_path / "model"), lambda phase: None)
    refused = refusal(served, [[1.0]], probabilities=True)
    assert (refused.code, "LinearRegression" in refused.detail) == ("no_probabilities", True)
    assert served.predict([[3.0]], probabilities=False).probabilities is None


def test_a_text_model_takes_one_column_of_texts(tmp_path: Path) -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(["good day", "bad day"], ["pos", "neg"])
    served = load(saved(model, tmp_path / "model"), lambda phase: None)
    assert served.predict({"text": ["good", "bad"]}, probabilities=False).predictions == [
        "pos",
        "neg",
    ]


def test_a_model_of_ones_own_goes_through_pyfunc(tmp_path: Path) -> None:
    class Sums(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input.sum(axis=1)

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Sums())
    served = load(tmp_path / "model", lambda phase: None)
    assert served.predict({"a": [1, 2], "b": [3, 4]}, probabilities=False).predictions == [4, 6]
    assert refusal(served, [[1]], probabilities=True).code == "no_probabilities"


def test_keras_gets_the_backend_that_a_model_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tells(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [os.environ["KERAS_BACKEND"]] * len(model_input)

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Tells())
    file = tmp_path / "model" / "MLmodel"
    about = yaml.safe_load(file.read_text())
    about["flavors"]["keras"] = {"keras_backend": "torch"}
    file.write_text(yaml.safe_dump(about))
    # Set and unset, so that it is gone again afterwards.
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    served = load(tmp_path / "model", lambda phase: None)
    assert served.predict([[1]], probabilities=False).predictions == ["torch"]


def test_what_json_cannot_say_becomes_null() -> None:
    assert plain(np.array([1.0, np.nan, np.inf])) == [1.0, None, None]
    assert plain([np.int64(1), np.str_("a"), np.bool_(True)]) == [1, "a", True]
    assert plain(pd.DataFrame({"x": [1]})) == [{"x": 1}]


# -- the process ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(forest_folder: Path) -> Iterator[Server]:
    running = started(forest_folder)
    until(lambda: answers_ready(running))
    yield running
    running.process.terminate()
    running.process.wait(timeout=10)


def test_a_ready_server_says_what_the_model_expects(server: Server) -> None:
    document = server.get("/ready").json()
    assert document["flavour"] == "sklearn"
    assert document["probabilities"] is True
    assert (document["n_features"], document["columns"], document["classes"]) == (20, None, [0, 1])


def test_a_prediction_over_http_equals_the_model_itself(
    server: Server, forest: RandomForestClassifier
) -> None:
    rows = np.random.default_rng(2).normal(size=(3, 20))
    answer = server.predict({"inputs": rows.tolist(), "return_probabilities": True})
    document = answer.json()
    assert answer.status_code == 200
    assert document["predictions"] == forest.predict(rows).tolist()
    assert document["probabilities"] == forest.predict_proba(rows).tolist()
    assert document["inference_time_ms"] > 0


def test_a_refusal_over_http_has_code_detail_and_places(server: Server) -> None:
    answer = server.predict({"inputs": {"a": [1], "b": [2]}})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "expected 20 features, got 2: a, b"
    assert answer.json()["errors"][0]["field"] == "inputs"


def test_a_body_that_is_no_request_is_refused(server: Server) -> None:
    answers = [server.predict(b"{"), server.predict({"rows": []}), server.predict([1])]
    assert [answer.status_code for answer in answers] == [400, 400, 400]


def test_a_caller_that_means_another_model_is_turned_away(server: Server) -> None:
    assert server.get("/ready", token="another").status_code == 401


def test_a_model_that_cannot_be_loaded_ends_the_server_and_the_last_line_says_why(
    tmp_path: Path, forest: RandomForestClassifier
) -> None:
    folder = saved(forest, tmp_path / "model")
    (folder / "model.pkl").write_bytes(b"no pickle at all")
    broken = started(folder)
    _, errors = broken.process.communicate(timeout=START_SECONDS)
    assert broken.process.returncode == 3
    assert errors.strip().splitlines()[-1].startswith("model_server: UnpicklingError: ")


def test_a_model_of_another_scikit_learn_that_cannot_be_loaded_says_both_versions(
    tmp_path: Path, forest: RandomForestClassifier
) -> None:
    folder = saved(forest, tmp_path / "model")
    (folder / "model.pkl").write_bytes(b"no pickle at all")
    written = f"sklearn_version: {sklearn.__version__}"
    about = (folder / "MLmodel").read_text()
    assert written in about
    (folder / "MLmodel").write_text(about.replace(written, "sklearn_version: 0.1.2"))
    (folder / "requirements.txt").write_text("mlflow==1.0\nscikit-learn==0.1.2\nnowhere==3.0\n")
    broken = started(folder)
    _, errors = broken.process.communicate(timeout=START_SECONDS)
    assert broken.process.returncode == 5
    last = errors.strip().splitlines()[-1]
    assert f"scikit-learn 0.1.2, and its environment has {sklearn.__version__}" in last
    assert "nowhere 3.0, and its environment has none" in last
    assert "UnpicklingError" in last
    assert "mlflow" not in last


def test_a_model_of_other_versions_that_works_is_not_complained_about(
    tmp_path: Path, forest: RandomForestClassifier
) -> None:
    folder = saved(forest, tmp_path / "model")
    (folder / "requirements.txt").write_text("scikit-learn==0.1.2\n")
    served = load(folder, lambda phase: None)
    assert "scikit-learn 0.1.2" in served.elsewhere
    assert served.predict([[0.0] * 20], probabilities=False).predictions

    def fails(form: Any, *, probabilities: bool) -> Any:
        raise AttributeError("no attribute")

    served.estimator.predict = fails  # type: ignore[method-assign]
    body = json.dumps({"inputs": [[0.0] * 20]}).encode()
    reply = Desk(served, Batching(False, "", 0)).answer([body], [0.0])[0]
    assert reply.status == 500
    assert b"scikit-learn 0.1.2" in reply.body
