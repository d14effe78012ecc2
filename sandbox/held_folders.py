"""Folders that somebody fills: held by a lock of the kernel, which the death of a process frees.

So a folder that nobody fills any more is told from one that somebody is at, whoever was killed.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Between the making of a folder and its lock.
YOUNG_SECONDS = 10.0


@contextlib.contextmanager
def held_folder(parent: Path, *, prefix: str = "tmp") -> Iterator[Path]:
    """A new folder below `parent`, ours until the end, or our death; gone afterwards if we live."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def is_abandoned(folder: Path) -> bool:
    """Whether no living process holds it; one that was made just now may not be held yet."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        young = time.time() - os.fstat(handle).st_ctime < YOUNG_SECONDS
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return not young
