"""A signature that says nothing: what it is taken for, what is said of it, and an example."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import orjson
import pandas as pd
import pytest
import yaml
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
from served_open import opened
from served_shapes import InputsRefused
from served_signature import read_signature

from inference.descriptions import read_description
from inference.schema import schema_document
from registry.mlflow_documents import Artifact
from registry.mlflow_models import ABOUT_BYTES, about_in
from registry.signatures import Declared

ROWS = pd.DataFrame({"age": [25.0, 35.0], "plan": ["a", "b"]})


class Counts(mlflow.pyfunc.PythonModel):
    """Answers with the number of columns that it was given, of which it needs two."""

    def predict(self, context, model_input, params=None):
        if model_input.shape[1] != 2:
            raise ValueError("two columns are needed")
        return [2] * len(model_input)


def inputs_of(*items: dict[str, Any]) -> dict[str, Any]:
    return {"signature": {"inputs": json.dumps(list(items))}}


EXAMPLE = {"saved_input_example_info": {"artifact_path": "input_example.json"}}
CASES = [
    (inputs_of({"type": "double", "name": "age"}), Declared.NAMED),
    (inputs_of({"type": "any", "name": "age"}), Declared.NAMED),
    (inputs_of({"type": "double"}), Declared.PLACED),
    (inputs_of({"type": "double"}, {"type": "any"}), Declared.PLACED),
    (inputs_of({"type": "any", "required": True}), Declared.ANY),
    (inputs_of({"type": "tensor", "tensor-spec": {"dtype": "f", "shape": [-1]}}), Declared.TENSOR),
    ({}, Declared.NONE),
    ({"signature": None, **EXAMPLE}, Declared.LOST),
]


@pytest.mark.parametrize(("said", "declared"), CASES)
def test_server_and_web_process_read_a_signature_alike(said: Any, declared: Declared) -> None:
    assert read_signature(said).declared == declared
    assert about_in(yaml.safe_dump(said).encode(), files=()).declared == declared


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"a: [", b"\xff\xfe", b"x" * (ABOUT_BYTES + 1), b"signature: 7", b"[" * 10_000],
)
def test_whatever_lies_there_as_a_description_its_files_are_told(content: bytes) -> None:
    files = (Artifact("model.pkl", is_folder=False, size_bytes=7),)
    assert about_in(content, files=files).files == files


def test_a_description_tells_flavours_size_and_version_as_text() -> None:
    said = {
        "flavors": {"python_function": {}, "sklearn": {}, 7: None},
        "mlflow_version": "3.13.0",
        "model_size_bytes": 1368,
    }
    told = about_in(yaml.safe_dump(said).encode(), files=())
    assert told.flavours == ("7", "sklearn", "python_function")
    assert (told.mlflow_version, told.size_bytes) == ("3.13.0", 1368)


def test_the_schema_says_what_happened_and_how_to_mend_it() -> None:
    def hint(declared: str) -> str | None:
        model = read_description("m", "1", {"signature": declared, "model_type": "pyfunc"})
        return schema_document(model)["hint"]

    assert "type `any`" in str(hint("any")) and "usually scipy or pandas" in str(hint("any"))
    assert "with an example of its input" in str(hint("lost"))
    assert "infer_signature(rows)" in str(hint("none"))
    assert hint("named") is None and hint("invented") is None


# -- what serves it -------------------------------------------------------------------------------
def saved(folder: Path, **logged: Any) -> Path:
    mlflow.pyfunc.save_model(
        folder, python_model=Counts(), conda_env={"dependencies": ["python=3.11"]}, **logged
    )
    return folder


def any_signature() -> Any:
    return mlflow.models.ModelSignature(inputs=Schema([ColSpec(AnyType())]))


def test_any_is_not_taken_for_one_column(tmp_path: Path) -> None:
    found = opened(saved(tmp_path / "model", signature=any_signature()), lambda phase: None)
    assert found.model.description()["signature"] == "any"
    assert found.model.description()["n_features"] is None
    two = {"age": [25.0], "plan": ["a"]}
    assert found.model.predict(two, probabilities=False).predictions == [2]
    assert found.example is None, "nobody wrote down what it takes"


@pytest.mark.parametrize(
    ("rows", "inputs"),
    [
        (ROWS, {"age": [25.0, 35.0], "plan": ["a", "b"]}),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_the_example_that_was_logged_is_the_one_that_works(
    tmp_path: Path, rows: Any, inputs: Any
) -> None:
    folder = saved(tmp_path / "model", input_example=rows)
    without = yaml.safe_load((folder / "MLmodel").read_text())
    without.pop("signature", None)
    (folder / "MLmodel").write_text(yaml.safe_dump(without))
    found = opened(folder, lambda phase: None)
    assert found.model.description()["signature"] == "lost"
    assert found.example == {"inputs": inputs}
    assert found.model.predict(inputs, probabilities=False).predictions == [2, 2]


def test_an_example_that_the_model_refuses_is_none(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", signature=any_signature(), input_example=ROWS)
    (folder / "input_example.json").write_bytes(orjson.dumps([{"age": 1.0}]))
    found = opened(folder, lambda phase: None)
    assert found.example is None
    with pytest.raises(InputsRefused, match="two columns"):
        found.model.predict({"age": [1.0]}, probabilities=False)
