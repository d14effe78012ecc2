"""What a model's server says of its model, as far as it has the form that it should have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.signatures import Declared, declared_in

# MLflow's names of types, and `any` where nobody wrote one down.
KINDS = frozenset({"double", "float", "long", "integer", "boolean", "string", "datetime", "any"})
COLUMNS_MOST = 10_000


@dataclass(frozen=True)
class ColumnOf:
    """One column that the model takes."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True)
class Model:
    """A model version as its server described it. `width` None: it takes any number of columns."""

    name: str
    version: str
    kind: str
    columns: tuple[ColumnOf, ...]
    width: int | None
    probabilities: bool
    classes: tuple[Any, ...]
    example: Any
    declared: Declared = Declared.UNKNOWN
    # Whether a server has said anything of it.
    is_described: bool = False


def read_description(name: str, version: str, said: Mapping[str, Any]) -> Model:
    """Nothing of what a server says is believed to have the form that it should have."""
    listed = said.get("columns")
    columns = tuple(_columns(listed)) if isinstance(listed, list) else ()
    width = said.get("n_features")
    example = said.get("example")
    classes = said.get("classes")
    return Model(
        name=name,
        version=version,
        kind=str(said.get("model_type", ""))[:200],
        columns=columns,
        width=len(columns) or (width if isinstance(width, int) else None),
        probabilities=said.get("probabilities") is True,
        classes=tuple(classes) if isinstance(classes, list) else (),
        example=example.get("inputs") if isinstance(example, dict) else None,
        declared=declared_in(said.get("signature")),
        is_described=bool(said),
    )


def _columns(listed: list[Any]) -> list[ColumnOf]:
    return [
        ColumnOf(
            name=str(item.get("name", "")),
            type=str(item.get("type")) if str(item.get("type")) in KINDS else "any",
            required=item.get("required") is not False,
        )
        for item in listed[:COLUMNS_MOST]
        if isinstance(item, dict)
    ]
