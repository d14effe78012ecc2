"""What a model's author declared that it takes, as MLflow wrote it down; it is only read here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from served_inputs import Column

# How inputs are declared: by name, by place, as a tensor, as `any` where MLflow could not tell
# their types, not at all although it was logged with an example, or not at all.
NAMED, PLACED, TENSOR, ANY, LOST, NONE = "named", "placed", "tensor", "any", "lost", "none"


@dataclass(frozen=True)
class Signature:
    """The inputs as the model's author declared them; all None when he did not."""

    columns: tuple[Column, ...] | None = None
    n_features: int | None = None
    tensor: tuple[str, tuple[int, ...]] | None = None
    declared: str = NONE


def read_signature(description: Mapping[str, Any]) -> Signature:
    declared = (description.get("signature") or {}).get("inputs")
    if not declared:
        return Signature(declared=LOST if description.get("saved_input_example_info") else NONE)
    items = json.loads(declared)
    if any(item["type"] == "tensor" for item in items):
        return _tensor_signature(items)
    if _says_nothing(items):
        return Signature(declared=ANY)
    if any(item.get("name") is None for item in items):
        return Signature(n_features=len(items), declared=PLACED)
    known = {"double", "float", "long", "integer", "boolean", "string", "datetime"}
    return Signature(
        columns=tuple(
            Column(
                name=str(item["name"]),
                type=item["type"] if item["type"] in known else "any",
                required=bool(item.get("required", True)),
            )
            for item in items
        ),
        declared=NAMED,
    )


def _says_nothing(items: list[dict[str, Any]]) -> bool:
    """One input without a name, of any type, is what MLflow writes where it fails to tell the
    types of a table: not that the table has one column."""
    return len(items) == 1 and items[0]["type"] == "any" and items[0].get("name") is None


def _tensor_signature(items: list[dict[str, Any]]) -> Signature:
    if len(items) > 1 or items[0].get("name"):
        return Signature(declared=TENSOR)
    spec = items[0]["tensor-spec"]
    shape = tuple(spec["shape"])
    width = shape[1] if len(shape) == 2 and shape[1] > 0 else None
    return Signature(n_features=width, tensor=(spec["dtype"], shape), declared=TENSOR)
