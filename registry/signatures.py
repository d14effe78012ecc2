"""How the author of a model declared what it takes, and what to say where that helps nobody.

MLflow infers a signature from rows. Where a package is missing that it needs for that, it writes
the type `any`, or nothing, and the job succeeds all the same.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Declared(StrEnum):
    """As a model's server and its `MLmodel` tell it."""

    NAMED = "named"
    PLACED = "placed"
    TENSOR = "tensor"
    ANY = "any"
    NONE = "none"
    # Not at all, although it was logged with an example of its input.
    LOST = "lost"
    # Of a model that nobody has looked at.
    UNKNOWN = ""

    @property
    def told(self) -> "Told | None":
        """None for a signature that says something, and where nobody knows."""
        return TOLD.get(self)

    @property
    def is_lost(self) -> bool:
        """Somebody meant it to say something."""
        return self in (Declared.ANY, Declared.LOST)


@dataclass(frozen=True)
class Told:
    """What happened, and how to mend it."""

    what: str
    mend: str

    @property
    def whole(self) -> str:
        return f"{self.what} {self.mend}"


MEND = (
    "Name the columns and their types in the signature, such as "
    'ModelSignature(inputs=Schema([ColSpec("double", "age")])) of mlflow.models and '
    "mlflow.types, or add the package that is missing, usually scipy or pandas, to the job's "
    "requirements and run it again."
)
MEND_NONE = (
    "Log it with signature=infer_signature(rows) or with input_example=rows.head(3): then its "
    "columns have names and types."
)
TOLD = {
    Declared.ANY: Told(
        "MLflow could not tell what this model takes, and wrote a signature of the type `any`: a "
        "package that it needs to look at rows was missing where the model was logged.",
        MEND,
    ),
    Declared.LOST: Told(
        "The model was logged with an example of its input and has no signature all the same: "
        "MLflow could not infer one, most likely since a package that it needs was missing.",
        MEND,
    ),
    Declared.NONE: Told("The model was logged without a signature.", MEND_NONE),
}


def declared_in(said: Any) -> Declared:
    """What a stranger says, where it is one of these."""
    try:
        return Declared(said)
    except ValueError:
        return Declared.UNKNOWN


def declared_by(items: Any) -> Declared:
    """Of the inputs in a signature as `MLmodel` has them, read from their JSON."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return Declared.UNKNOWN
    if not items:
        return Declared.NONE
    if any(item.get("type") == "tensor" for item in items):
        return Declared.TENSOR
    nameless = [item for item in items if item.get("name") is None]
    if len(items) == 1 and nameless and items[0].get("type") == "any":
        return Declared.ANY
    return Declared.PLACED if nameless else Declared.NAMED
