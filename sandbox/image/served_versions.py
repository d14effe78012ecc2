"""With which versions a model was made, beside those that its environment has; only told.

Both are said when a model cannot be opened, or fails: an old pickle in a newer library raises
whatever it likes, and a missing module names nobody's version.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Where a flavour writes down its library's version, and what that is called by pip.
WRITTEN = (
    ("sklearn", "sklearn_version", "scikit-learn"),
    ("xgboost", "xgb_version", "xgboost"),
    ("lightgbm", "lgb_version", "lightgbm"),
    ("catboost", "catboost_version", "catboost"),
    ("statsmodels", "statsmodels_version", "statsmodels"),
    ("pytorch", "pytorch_version", "torch"),
)
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)")
REQUIREMENTS_BYTES = 256 * 1024
SHOWN = 3
VERSION_CHARACTERS = 40


class MadeElsewhere(Exception):
    """The model cannot be opened, and was made with other versions than its environment has."""


def differences(folder: Path, description: Mapping[str, Any]) -> str:
    """As the end of a sentence; empty where nothing differs, or nobody wrote anything down."""
    made = dict(_written(folder, description))
    told = [
        f"with {name} {version}, and its environment has {found or 'none'}"
        for name, version in made.items()
        if (found := _installed(name)) != version
    ]
    python = _python(description)
    if python and python.split(".")[:2] != platform.python_version().split(".")[:2]:
        told.append(f"with Python {python}, and its environment has {platform.python_version()}")
    return f"it was made {'; '.join(told[:SHOWN])}" if told else ""


def _written(folder: Path, description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    flavours = description.get("flavors") or {}
    for flavour, key, name in WRITTEN:
        version = (flavours.get(flavour) or {}).get(key)
        if version:
            yield name, str(version)[:VERSION_CHARACTERS]
    for name, version in _required(folder / "requirements.txt"):
        # The platform brings its own part of MLflow.
        if not name.startswith("mlflow"):
            yield name, version[:VERSION_CHARACTERS]


def _required(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_symlink() or not path.is_file():
        return
    with path.open("rb") as file:
        text = file.read(REQUIREMENTS_BYTES).decode(errors="replace")
    for line in text.splitlines():
        found = REQUIREMENT.match(line.strip())
        if found:
            yield found[1].lower(), found[2]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(description: Mapping[str, Any]) -> str:
    about = (description.get("flavors") or {}).get("python_function") or {}
    return str(about.get("python_version") or "")[:VERSION_CHARACTERS]
