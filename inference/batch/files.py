"""The files of batches on this host: a folder for each, closed to all but the platform.

<batch>/input/input.csv       what was sent; the container sees this folder, and only this one
<batch>/predictions.csv       written by a worker, from what it checked
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from sandbox.held_folders import held_folder, is_abandoned

UPLOADING = ".upload-"
INPUT = "input"
PREDICTIONS = "predictions"
PART = ".part"


def root() -> Path:
    folder = Path(settings.BATCHES_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def folder_of(batch_id: uuid.UUID) -> Path:
    return root() / str(batch_id)


def input_folder(batch_id: uuid.UUID) -> Path:
    return folder_of(batch_id) / INPUT


def input_file(batch_id: uuid.UUID, form: str) -> Path:
    return input_folder(batch_id) / f"{INPUT}.{form}"


def predictions_file(batch_id: uuid.UUID, form: str) -> Path:
    return folder_of(batch_id) / f"{PREDICTIONS}.{form}"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Where an upload is held until it is accepted; gone afterwards, whatever came of it."""
    with held_folder(root(), prefix=UPLOADING) as folder:
        yield folder


def take_in(upload: Path, batch_id: uuid.UUID, form: str) -> None:
    """The file belongs to the batch from here on, and its container can read it."""
    target = input_file(batch_id, form)
    target.parent.mkdir(parents=True)
    target.parent.chmod(0o755)
    upload.chmod(0o644)
    upload.replace(target)


@contextmanager
def published(batch_id: uuid.UUID, form: str) -> Iterator[Path]:
    """Where predictions are written to; in place in one step once all of them are, if any are."""
    final = predictions_file(batch_id, form)
    part = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        yield part
        if part.exists():
            # The web process may have another account of the same group.
            part.chmod(0o660)
            part.replace(final)
    finally:
        part.unlink(missing_ok=True)


def remove_input(batch_id: uuid.UUID) -> None:
    shutil.rmtree(input_folder(batch_id), ignore_errors=True)


def remove_all(batch_id: uuid.UUID) -> None:
    shutil.rmtree(folder_of(batch_id), ignore_errors=True)


def free_mb() -> int:
    return shutil.disk_usage(root()).free // 1024**2


def cut_off_uploads() -> list[Path]:
    """Folders of uploads whose process died."""
    held = (path for path in root().iterdir() if path.name.startswith(UPLOADING))
    return [path for path in held if path.is_dir() and is_abandoned(path)]


def batches_with_files() -> set[uuid.UUID]:
    found = set()
    for entry in os.scandir(root()):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            try:
                found.add(uuid.UUID(entry.name))
            except ValueError:
                continue
    return found
