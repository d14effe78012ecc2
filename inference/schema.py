"""What a model version takes and gives, as JSON Schema and as an OpenAPI document of its own.

Made from what its server said when it was ready; a version that no server was ready for yet is
started for it. What the server says is a stranger's: names and types are taken, nothing else.
"""

import json
from typing import Any

from inference.descriptions import ColumnOf, Model, read_description
from inference.gateway import PATH, Gateway
from inference.services import pool

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[str, dict[str, Any]] = {
    "double": {"type": "number"},
    "float": {"type": "number"},
    "long": {"type": "integer"},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
    "datetime": {"type": "string", "format": "date-time"},
    "any": {},
}
SAMPLES: dict[str, Any] = {
    "double": 0.0,
    "float": 0.0,
    "long": 0,
    "integer": 0,
    "boolean": False,
    "string": "a",
    "datetime": "2025-01-01T00:00:00Z",
    "any": 0.0,
}


async def described(gateway: Gateway, name: str, selector: str) -> Model:
    """The version's description; its server is started for it if need be. Raises Refused."""
    number = await gateway.versions.number(name, selector)
    version = await gateway.versions.version(name, number)
    known = await gateway.threads.call(
        lambda: pool.description_of(name, number, source=version.source)
    )
    if known is None:
        await gateway.routes.fleet((name, number))
        known = await gateway.threads.call(pool.description_of, name, number)
    return read_description(name, number, known or {})


# -- JSON Schema --------------------------------------------------------------------------------
def schema_document(model: Model) -> dict[str, Any]:
    """What to post to `/mlops/inference`, what comes back, and an example that works as it is."""
    return {
        "model_name": model.name,
        "model_version": model.version,
        "model_type": model.kind,
        "columns": [
            {"name": column.name, "type": column.type, "required": column.required}
            for column in model.columns
        ]
        or None,
        "n_features": model.width,
        "classes": list(model.classes) or None,
        "has_probabilities": model.probabilities,
        "request": {"$schema": DIALECT, **request_schema(model)},
        "response": {"$schema": DIALECT, **response_schema(model)},
        "example": example_request(model),
        "hint": model.declared.told.whole if model.declared.told else None,
    }


def request_schema(model: Model) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "model_name": {"const": model.name},
        "model_version": {"enum": [model.version, int(model.version)]},
        "inputs": {"oneOf": _shapes(model)},
    }
    if model.probabilities:
        asked["return_probabilities"] = {"type": "boolean", "default": False}
    return {
        "type": "object",
        "properties": {**asked, **_joined_fields()},
        "required": ["model_name"],
        "anyOf": [{"required": ["inputs"]}, {"required": ["entities"]}],
        "additionalProperties": False,
    }


def _joined_fields() -> dict[str, Any]:
    """Features that the platform looks up: beside them `inputs` need not have every column."""
    names = {"type": "array", "minItems": 1, "items": {"type": "string"}}
    columns = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    records = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    return {
        "entities": {"oneOf": [columns, records]},
        "feature_service": {"type": "string"},
        "feature_views": names,
        "features": names,
        "missing_features": {"enum": ["refuse", "null"]},
        "return_features": {"type": "boolean", "default": False},
    }


def response_schema(model: Model) -> dict[str, Any]:
    label = {"enum": list(model.classes)} if model.classes else {}
    width = {"minItems": len(model.classes), "maxItems": len(model.classes)}
    chances: dict[str, Any] = {"type": "array", "items": {"type": ["number", "null"]}}
    if model.classes:
        chances = {**chances, **width}
    return {
        "type": "object",
        "properties": {
            "model_name": {"const": model.name},
            "model_version": {"const": model.version},
            "predictions": {"type": "array", "items": label},
            "probabilities": {"type": ["array", "null"], "items": chances},
            "classes": {"type": ["array", "null"]},
            "inference_time_ms": {"type": "number"},
            "timestamp": {"type": "string", "format": "date-time"},
            "request_id": {"type": "string"},
            "features": {"type": "object"},
            "missing_features": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["model_name", "model_version", "predictions", "inference_time_ms"],
    }


def _shapes(model: Model) -> list[dict[str, Any]]:
    rows: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "array"}}
    if model.width is not None:
        rows["items"] |= {"minItems": model.width, "maxItems": model.width}
    if not model.columns:
        free = {"type": "array", "items": {}}
        return [
            {"title": "columns", "type": "object", "additionalProperties": free},
            {"title": "records", "type": "array", "minItems": 1, "items": {"type": "object"}},
            {"title": "rows", **rows},
        ]
    cells = {column.name: _cell(column) for column in model.columns}
    required = [column.name for column in model.columns if column.required]
    closed = {"required": required, "additionalProperties": False}
    lists = {name: {"type": "array", "minItems": 1, "items": cell} for name, cell in cells.items()}
    record = {"type": "object", "properties": cells, **closed}
    rows["items"]["prefixItems"] = list(cells.values())
    return [
        {"title": "columns", "type": "object", "properties": lists, **closed},
        {"title": "records", "type": "array", "minItems": 1, "items": record},
        {"title": "rows", **rows},
    ]


def _cell(column: ColumnOf) -> dict[str, Any]:
    """A missing value is `null`; whether the model takes one is the model's own business."""
    plain = TYPES[column.type]
    return {"anyOf": [plain, {"type": "null"}]} if plain else {}


def example_request(model: Model) -> dict[str, Any]:
    """The model's own example where it was logged with one, else one value of each type."""
    return {
        "model_name": model.name,
        "model_version": model.version,
        "inputs": _example_inputs(model),
    }


def _example_inputs(model: Model) -> Any:
    if model.example is not None:
        return model.example
    if model.columns:
        return {column.name: [SAMPLES[column.type]] for column in model.columns}
    return [[0.0] * (model.width or 1)]


# -- OpenAPI ------------------------------------------------------------------------------------
def openapi_document(model: Model) -> dict[str, Any]:
    """A document that a client generator makes typed code of, for this version alone."""
    body = {
        "schema": request_schema(model),
        "examples": {"example": {"value": example_request(model)}},
    }
    problem = {
        "description": "What is wrong, in words and by place.",
        "content": {"application/problem+json": {"schema": PROBLEM}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.name} version {model.version}",
            "version": model.version,
            "description": f"Predictions of {json.dumps(model.kind or 'a model')}.",
        },
        "paths": {
            PATH: {
                "post": {
                    "operationId": "predict",
                    "requestBody": {"required": True, "content": {"application/json": body}},
                    "responses": {
                        "200": {
                            "description": "One answer for each row.",
                            "content": {"application/json": {"schema": response_schema(model)}},
                        },
                        "400": problem,
                        "422": problem,
                        "503": problem,
                    },
                }
            }
        },
    }


PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
