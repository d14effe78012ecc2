"""What a model's author declared that it takes, as MLflow wrote it down; it is only read here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from served_inputs import Column


@dataclass(frozen=True)
class Signature:
    """The inputs as the model's author declared them; all None when he did not."""

    columns: tuple[Column, ...] | None = None
    n_features: int | None = None
    tensor: tuple[str, tuple[int, ...]] | None = None


def read_signature(description: Mapping[str, Any]) -> Signature:
    declared = (description.get("signature") or {}).get("inputs")
    if not declared:
        return Signature()
    items = json.loads(declared)
    if any(item["type"] == "tensor" for item in items):
        return _tensor_signature(items)
    if any(item.get("name") is None for item in items):
        return Signature(n_features=len(items))
    known = {"double", "float", "long", "integer", "boolean", "string", "datetime"}
    return Signature(
        columns=tuple(
            Column(
                name=str(item["name"]),
                type=item["type"] if item["type"] in known else "any",
                required=bool(item.get("required", True)),
            )
            for item in items
        )
    )


def _tensor_signature(items: list[dict[str, Any]]) -> Signature:
    if len(items) > 1 or items[0].get("name"):
        return Signature()
    spec = items[0]["tensor-spec"]
    shape = tuple(spec["shape"])
    width = shape[1] if len(shape) == 2 and shape[1] > 0 else None
    return Signature(n_features=width, tensor=(spec["dtype"], shape))
