"""What the `MLmodel` of a logged model says of it: how it can be opened and what it takes.

Its author may have written anything there: names are taken as text, within bounds, and no more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from registry.mlflow_documents import Artifact
from registry.signatures import Declared, declared_by

# A thousand columns take 60 KB.
ABOUT_BYTES = 512 * 1024
FLAVOURS_SHOWN, FILES_SHOWN, TEXT_CHARACTERS = 10, 100, 200
# Written in C where that is there: twenty times as fast.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class AboutModel:
    """Of one version; it never changes. `files` are those at its top."""

    flavours: tuple[str, ...] = ()
    mlflow_version: str = ""
    size_bytes: int | None = None
    declared: Declared = Declared.UNKNOWN
    files: tuple[Artifact, ...] = ()


def about_in(content: bytes, *, files: tuple[Artifact, ...]) -> AboutModel:
    """What is no description says nothing; its files are told all the same."""
    said = _document(content)
    if said is None:
        return AboutModel(files=files[:FILES_SHOWN])
    flavours = said.get("flavors")
    size = said.get("model_size_bytes")
    return AboutModel(
        flavours=_flavours(flavours) if isinstance(flavours, dict) else (),
        mlflow_version=_text(said.get("mlflow_version")),
        size_bytes=size if isinstance(size, int) else None,
        declared=_declared(said),
        files=files[:FILES_SHOWN],
    )


def _document(content: bytes) -> Mapping[str, Any] | None:
    if len(content) > ABOUT_BYTES:
        return None
    try:
        # A loader of plain values, whichever of the two it is.
        said = yaml.load(content, Loader=LOADER)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _flavours(flavours: Mapping[Any, Any]) -> tuple[str, ...]:
    """`python_function` is what every model has beside its own one: it comes last."""
    names = sorted(map(_text, flavours), key=lambda name: (name == "python_function", name))
    return tuple(names[:FLAVOURS_SHOWN])


def _declared(said: Mapping[str, Any]) -> Declared:
    signature = said.get("signature")
    if not isinstance(signature, dict) or not signature.get("inputs"):
        return Declared.LOST if said.get("saved_input_example_info") else Declared.NONE
    try:
        return declared_by(json.loads(str(signature["inputs"])))
    except (ValueError, RecursionError):
        return Declared.UNKNOWN


def _text(value: Any) -> str:
    return str(value)[:TEXT_CHARACTERS] if isinstance(value, str | int | float) else ""
