"""The schema of a model version, from what its server said of it."""

from typing import Any

import pytest

from inference.schema import openapi_document, read_description, schema_document

COLUMNS = [
    {"name": "age", "type": "long", "required": True},
    {"name": "plan", "type": "string", "required": False},
]
SAID: dict[str, Any] = {
    "model_type": "Pipeline",
    "probabilities": True,
    "classes": [0, 1],
    "columns": COLUMNS,
    "n_features": 2,
    "example": {"inputs": {"age": [25], "plan": ["pro"]}},
}


def document(**said: Any) -> dict[str, Any]:
    return schema_document(read_description("churn", "1", {**SAID, **said}))


def test_the_example_is_the_models_own_as_a_request() -> None:
    assert document()["example"] == {
        "model_name": "churn",
        "model_version": "1",
        "inputs": {"age": [25], "plan": ["pro"]},
    }


def test_without_an_example_one_value_of_each_type_is_made() -> None:
    assert document(example=None)["example"]["inputs"] == {"age": [0], "plan": ["a"]}
    assert document(example=None, columns=None)["example"]["inputs"] == [[0.0, 0.0]]


def test_columns_types_and_what_is_required_are_in_the_schema() -> None:
    columns, records, rows = document()["request"]["properties"]["inputs"]["oneOf"]
    assert columns["required"] == ["age"]
    assert records["items"]["properties"]["age"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}]
    }
    assert (rows["items"]["minItems"], rows["items"]["maxItems"]) == (2, 2)


def test_probabilities_can_be_asked_for_only_where_there_are_any() -> None:
    assert "return_probabilities" in document()["request"]["properties"]
    assert "return_probabilities" not in document(probabilities=False)["request"]["properties"]


def test_the_openapi_document_is_of_this_version_alone() -> None:
    made = openapi_document(read_description("churn", "1", SAID))
    asked = made["paths"]["/mlops/inference"]["post"]["requestBody"]["content"]["application/json"]
    assert asked["schema"]["properties"]["model_name"] == {"const": "churn"}
    assert asked["examples"]["example"]["value"]["inputs"] == {"age": [25], "plan": ["pro"]}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"columns": "x", "classes": 7, "n_features": "many", "example": []},
        {"columns": [1, {"name": None, "type": ["x"]}], "example": {"x": 1}},
    ],
)
def test_whatever_a_server_says_makes_a_schema(said: dict[str, Any]) -> None:
    assert schema_document(read_description("churn", "1", said))["request"]["type"] == "object"
