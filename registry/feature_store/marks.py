"""What the files of a feature store say about whether it has changed. No Feast, no Django.

A store whose registry is elsewhere does not tell: then the time that has passed decides.
"""

import os
from pathlib import Path

CONFIGURATION = "feature_store.yaml"


def is_configured(repo: Path) -> bool:
    """Whether there is a feature store at all. Never raises."""
    return os.path.isfile(repo / CONFIGURATION)  # noqa: PTH113 - Path's own raises where one may not look


def mark_of(repo: Path, registry_file: str) -> str:
    """Another text when the configuration or the registry's file changed since. Never raises.

    `registry_file` is empty where the registry is no file of this host.
    """
    return " ".join(_changed_at(path) for path in (repo / CONFIGURATION, registry_file) if path)


def _changed_at(path: Path | str) -> str:
    try:
        found = Path(path).stat()
    except OSError:
        return "-"
    return f"{found.st_mtime_ns}"
