"""The OpenAPI schema: whoever reads it knows every field and every answer."""

from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

CONTRACT = {
    ("/mlops/training/upload", "post"): {
        *("202", "400", "409", "413", "415", "422", "429", "500", "503"),
    },
    ("/mlops/training/jobs/{job_id}", "get"): {"200", "400", "404", "500", "503"},
    ("/mlops/training/jobs", "get"): {"200", "400", "500", "503"},
    ("/mlops/training/jobs/{job_id}/cancel", "post"): {
        *("200", "202", "404", "409", "500", "503"),
    },
    ("/mlops/training/jobs/{job_id}/rerun", "post"): {
        *("202", "400", "404", "409", "413", "415", "422", "429", "500", "503"),
    },
    ("/mlops/training/validate", "post"): {"200", "400", "413", "415", "500", "503"},
    ("/mlops/training/reasons", "get"): {"200", "500", "503"},
    ("/mlops/training/limits", "get"): {"200", "500", "503"},
    ("/mlops/inference", "post"): {"200", "400", "404", "413", "422", "500", "503"},
    ("/mlops/registry", "post"): {"201", "400", "404", "413", "415", "500", "503"},
    ("/mlops/models", "get"): {"200", "500", "503"},
    ("/mlops/models/{model_name}", "get"): {"200", "404", "500", "503"},
    ("/mlops/status", "get"): {"200", "500", "503"},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


def test_it_has_the_versions_of_the_contract(schema: dict[str, Any]):
    assert schema["info"]["version"] == "5.0.0"
    assert schema["openapi"].startswith("3.1")


@pytest.mark.parametrize(("path", "method"), CONTRACT)
def test_every_operation_lists_what_it_can_answer(schema: dict[str, Any], path: str, method: str):
    responses = schema["paths"][path][method]["responses"]
    assert set(responses) == CONTRACT[path, method]
    for code, response in responses.items():
        ((media_type, content),) = response["content"].items()
        wanted = "application/json" if code < "300" else "application/problem+json"
        assert media_type == wanted
        assert content["examples"], f"{path} {code} has no example"


def test_every_operation_is_described_and_every_request_has_an_example(schema: dict[str, Any]):
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            body = operation.get("requestBody", {}).get("content", {})
            if "application/json" in body:
                assert body["application/json"]["examples"], path


def test_every_field_is_described(schema: dict[str, Any]):
    silent = [
        f"{name}.{field}"
        for name, component in schema["components"]["schemas"].items()
        for field, about in component.get("properties", {}).items()
        if not about.get("description")
    ]
    assert silent == []


def test_an_example_of_a_problem_has_the_code_that_it_stands_under(schema: dict[str, Any]):
    for operations in schema["paths"].values():
        for operation in operations.values():
            for code, response in operation["responses"].items():
                content = response.get("content", {}).get("application/problem+json", {})
                for example in content.get("examples", {}).values():
                    assert str(example["value"]["status"]) == code
                    assert example["value"]["detail"]
