"""Reads a model's `MLmodel`, and refuses one that names files which are not the model's own.

It keeps nothing from a hostile model, whose code runs in the same container anyway: it ends the
server at once and in words, where a loader would walk through all of `/` or wait at a device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Where MLflow's flavours name what they open, below the model's folder. Not `uri`: where an
# artifact was before it was copied.
PATH_KEYS = frozenset(
    {
        "artifact_path",
        "code",
        "data",
        "model_data",
        "model_path",
        "path",
        "pickled_model",
        "python_model",
    }
)
# Settings that a model's author gave his own model, with keys of his own.
USERS_OWN = frozenset({"config", "model_config"})
MAX_BYTES = 4 * 1024 * 1024


class ModelFilesOutside(Exception):
    """The model's description leads out of its folder."""


def read_description(folder: Path) -> dict[str, Any]:
    """Raises ModelFilesOutside, and ValueError for what is no description."""
    about = folder / "MLmodel"
    if not _is_inside(folder, about):
        raise ModelFilesOutside("MLmodel is a link that leads out of the model's folder.")
    with about.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"MLmodel has more than {MAX_BYTES} bytes.")
    description = yaml.safe_load(content)
    flavours = description.get("flavors") if isinstance(description, dict) else None
    if not isinstance(flavours, dict):
        raise ValueError("MLmodel names no flavours.")
    for key, path in _paths_in(flavours):
        if not _is_inside(folder, folder / path):
            raise ModelFilesOutside(
                f"MLmodel names a file outside of the model's folder: {key}: {path[:200]}"
            )
    return description


def _is_inside(folder: Path, path: Path) -> bool:
    """With all links followed."""
    whole = folder.resolve()
    try:
        found = path.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return found == whole or whole in found.parents


def _paths_in(flavours: dict[str, Any]) -> Iterator[tuple[str, str]]:
    left: list[Any] = [flavours]
    # A description may refer to its own parts, over and over.
    seen: set[int] = set()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, list):
            left.extend(part)
        if isinstance(part, dict):
            left.extend(value for key, value in part.items() if key not in USERS_OWN)
            yield from (
                (str(key), value)
                for key, value in part.items()
                if key in PATH_KEYS and isinstance(value, str)
            )
