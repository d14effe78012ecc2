"""Files of model versions on this host: downloaded aside, published in one rename, cleared away.

A folder belongs to the row of a server that names its source. Whoever wants one writes that row
first and looks for the folder then; whoever clears away reads the rows last, and both look under a
lock, so that no folder goes that somebody has just found.
"""

import contextlib
import fcntl
import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings
from rest_framework.exceptions import APIException

from inference.failures import StartFailed, unreachable
from registry.mlflow_client import ModelRegistry, ModelVersion
from sandbox.held_folders import held_folder, is_abandoned

log = logging.getLogger(__name__)

DOWNLOADING = ".download-"
REMOVED = ".removed-"
LOCK = ".lock"
# Ours, beside the model's own files: what its server made of it (`inference/compact_forms.py`).
OURS = ".mlops"
# With the form's own number: what another release made is made again.
OUTCOME = "outcome-2.json"
COMPACT = "compact-2.npz"


def folder_name(model_name: str, source: str, version: str) -> str:
    digest = hashlib.sha256(f"{model_name}\n{source}".encode()).hexdigest()[:16]
    return f"{digest}-{version}"


def model_folder(version: ModelVersion, *, registry: ModelRegistry) -> Path:
    """The version's files on this host, readable in the container; downloaded once.

    Its server's row names the source already. Raises StartFailed.
    """
    final = _root() / folder_name(version.name, version.source, version.version)
    with _locked(fcntl.LOCK_SH):
        known = final.is_dir()
    if not known:
        with held_folder(_root(), prefix=DOWNLOADING) as aside:
            target = aside / "model"
            target.mkdir()
            _download(version, target, registry=registry)
            _publish(target, final)
    found = sorted(final.rglob("MLmodel"), key=lambda path: len(path.parts))
    if not found:
        shutil.rmtree(final)
        raise StartFailed("model_files_missing", "The version has no MLmodel file.")
    return found[0].parent


def outcome_file(model_name: str, source: str, version: str) -> Path | None:
    """Where it says what came of the version's compact form; None when it is there already, or
    the version's files are not."""
    folder = _root() / folder_name(model_name, source, version)
    found = sorted(folder.rglob("MLmodel"), key=lambda path: len(path.parts))
    if not found:
        return None
    path = found[0].parent / OURS / OUTCOME
    return None if path.exists() else path


def remove_cut_off() -> list[str]:
    """Removes downloads whose process died, and what was to be removed when one died."""
    removed = []
    for folder in _folders():
        cut_off = folder.name.startswith(DOWNLOADING) and is_abandoned(folder)
        if cut_off or folder.name.startswith(REMOVED):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return sorted(removed)


def remove_unowned(owned: Callable[[], set[str]]) -> list[str]:
    """Removes published folders that `owned`, which is asked under the lock, does not name."""
    with _locked(fcntl.LOCK_EX):
        published = [folder for folder in _folders() if not folder.name.startswith(".")]
        names = owned() if published else set()
        unowned = [folder for folder in published if folder.name not in names]
        aside = [
            folder.rename(folder.with_name(f"{REMOVED}{folder.name}-{uuid.uuid4().hex[:8]}"))
            for folder in unowned
        ]
    for folder in aside:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(folder.name for folder in unowned)


def _root() -> Path:
    folder = Path(settings.MODELS_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folders() -> list[Path]:
    return [path for path in _root().iterdir() if path.is_dir() and not path.is_symlink()]


@contextlib.contextmanager
def _locked(kind: int) -> Iterator[None]:
    """Held for a look and a few renames; the kernel frees the lock of a killed process."""
    with (_root() / LOCK).open("w") as handle:
        fcntl.flock(handle, kind)
        yield


def _download(version: ModelVersion, target: Path, *, registry: ModelRegistry) -> None:
    try:
        registry.download_model(version, target)
    except APIException as error:
        raise unreachable(error) from error
    except OSError as error:
        log.exception("server.download_failed")
        sentence = "The model's files cannot be stored on the platform's disk."
        raise StartFailed("host_failed", sentence) from error


def _publish(folder: Path, final: Path) -> None:
    """Readable for the container's user, and in place in one step; the first of two wins."""
    for forged in folder.rglob(OURS):
        # Only a server that compared may say that a compact form is the model.
        shutil.rmtree(forged, ignore_errors=True)
        forged.unlink(missing_ok=True)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise
