"""The folders of the environment store on this host; nothing here knows of containers.

Layout below the root, which is one bind mount of the build container:

    cache/              uv's cache, hard-linked into the environments
    cache-bytecode/     the bytecode of what is in it, hard-linked too
    source-cache…/      the same for environments with a package that was built from its source
    envs/<key>/         a finished environment; `lock.txt` and `pylock.toml` in it say what it holds
    kept/<key>/         the same two files and its size; they stay when the environment goes
    used/<key>          its time is when the environment was last asked for
    building/<random>/  one that is being built; published by a rename
    resolved/<hash>     which key a set of requirements resolved to
    platform/<key>/     what our own model server needs, for the end of `sys.path`
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sandbox.build_container import give_to_builder
from sandbox.environment_failures import BuildStopped
from sandbox.held_folders import held_folder, is_abandoned

# No environment of wheels only is linked with the second.
CACHES = CACHE, SOURCE_CACHE = "cache", "source-cache"
CACHE_FOLDERS = (*CACHES, *(f"{cache}-bytecode" for cache in CACHES))
BUILT_WHEELS = "wheels"
STORE_FOLDERS = (
    *CACHE_FOLDERS,
    "envs",
    "building",
    "kept",
    "used",
    "resolved",
    "platform",
    "locks",
)
LOCK_FILES = ("lock.txt", "pylock.toml")
LOCK_SECONDS = 0.2
RESOLUTION_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Stored:
    """What the store has of an environment. `size_bytes` counts every file that is in it."""

    key: str
    size_bytes: int
    used_at: float
    built_at: float


class StoreFolders:
    """What is on the disk, for whoever builds, finds and removes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def building(self) -> Path:
        return self.root / "building"

    def environment(self, key: str) -> Path:
        return self.root / "envs" / key

    def platform(self, name: str) -> Path:
        return self.root / "platform" / name

    def prepare(self) -> None:
        for name in STORE_FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # The builder passes through; an operator who hides the store does so one folder above.
        self.root.chmod(0o711)
        # Whatever our own mask: the builder reads here, and jobs what is mounted from here.
        for name in ("envs", "platform"):
            (self.root / name).chmod(0o755)
        for name in (*CACHE_FOLDERS, "building"):
            give_to_builder(self.root / name)

    @contextlib.contextmanager
    def build_folder(self) -> Iterator[Path]:
        """A folder below building/ that the builder may write; gone afterwards in any case."""
        self.prepare()
        with held_folder(self.building) as folder:
            give_to_builder(folder)
            yield folder

    def remove_abandoned(self) -> set[str]:
        """The folders of builds whose process died; returns their names."""
        abandoned = [folder for folder in _folders(self.building) if is_abandoned(folder)]
        for folder in abandoned:
            shutil.rmtree(folder, ignore_errors=True)
        return {folder.name for folder in abandoned}

    @contextlib.contextmanager
    def locked(self, name: str, *, stop: threading.Event) -> Iterator[None]:
        """One builder at a time for each set; the kernel frees the lock of a killed one.

        Raises BuildStopped when `stop` is set while somebody else builds.
        """
        self.prepare()
        with (self.root / "locks" / name).open("w") as handle:
            while not _try_lock(handle):
                if stop.wait(LOCK_SECONDS):
                    raise BuildStopped
            yield

    # -- what a set resolved to --------------------------------------------------------------------
    def recall(self, name: str) -> str | None:
        """The key that a set of requirements resolved to lately."""
        remembered = self.root / "resolved" / name
        try:
            age = time.time() - remembered.stat().st_mtime
            key = remembered.read_text().strip()
        except FileNotFoundError:
            return None
        return key if age < RESOLUTION_SECONDS else None

    def remember(self, name: str, key: str) -> None:
        target = self.root / "resolved" / name
        aside = target.with_suffix(f".{os.getpid()}")
        aside.write_text(key)
        aside.replace(target)

    # -- one environment ---------------------------------------------------------------------------
    def lock_files(self, key: str) -> tuple[str, str]:
        """The lock of an environment that is there, in both its forms.

        The second is empty for one that was built long ago. Raises FileNotFoundError.
        """
        folder = self.environment(key)
        pylock = folder / "pylock.toml"
        text = (folder / "lock.txt").read_text()
        return text, pylock.read_text() if pylock.is_file() else ""

    def kept_files(self, key: str) -> dict[str, str]:
        """The same of one that may be gone, by name; empty when nothing was kept."""
        folder = self.root / "kept" / key
        found = {name: folder / name for name in LOCK_FILES}
        texts = {name: path.read_text() for name, path in found.items() if path.is_file()}
        return texts if texts.get("lock.txt") else {}

    def kept_size(self, key: str) -> int:
        """What it had when it was published; 0 for one of before that was written down."""
        try:
            return int((self.root / "kept" / key / "size").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def hand_out_wheels(self, key: str, building: Path) -> bool:
        """Whether the environment has packages that were built here; their wheels are copied."""
        kept = self.root / "kept" / key / BUILT_WHEELS
        if not kept.is_dir():
            return False
        shutil.copytree(kept, building / BUILT_WHEELS)
        return True

    def keep(self, key: str, texts: Mapping[str, str]) -> None:
        """The files of an environment that outlive it, each in one step."""
        folder = self.root / "kept" / key
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            aside = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
            aside.write_text(text)
            aside.replace(folder / name)

    def publish(self, building: Path, key: str) -> None:
        """Its lock goes first: an environment that is there can always be built again."""
        made = building / "environment"
        texts = {name: (building / name).read_text() for name in LOCK_FILES}
        self.keep(key, {**texts, "size": str(_size(made))})
        if (building / BUILT_WHEELS).is_dir():
            # No index has them: without them it could not be built again.
            kept = self.root / "kept" / key / BUILT_WHEELS
            shutil.copytree(building / BUILT_WHEELS, kept, dirs_exist_ok=True)
        for name, text in texts.items():
            (made / name).write_text(text)
        move_into_place(made, self.environment(key))

    def remove(self, key: str, *, unless_used_since: float) -> bool:
        """Out of sight in one step, then removed; back where somebody asked for it meanwhile.

        Whoever asks touches first and looks then, so that one of the two sees the other.
        """
        with held_folder(self.building) as folder:
            aside = folder / key
            self.environment(key).rename(aside)
            if self.used_at(key) == unless_used_since:
                return True
            aside.rename(self.environment(key))
            return False

    def touch(self, key: str) -> None:
        """It counts as used now."""
        (self.root / "used").mkdir(exist_ok=True)
        (self.root / "used" / key).touch()

    def used_at(self, key: str) -> float:
        for path in (self.root / "used" / key, self.environment(key)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    # -- the whole ---------------------------------------------------------------------------------
    def stored(self) -> list[Stored]:
        """Every environment that is there, the least recently used first."""
        found = [self._stored(path) for path in _folders(self.root / "envs")]
        return sorted(found, key=lambda one: one.used_at)

    def _stored(self, folder: Path) -> Stored:
        return Stored(
            key=folder.name,
            size_bytes=self.kept_size(folder.name) or _size(folder),
            used_at=self.used_at(folder.name),
            built_at=folder.stat().st_ctime,
        )

    def cache_bytes(self) -> int:
        """What the cache holds that no environment shares."""
        files = (
            Path(folder, name).lstat()
            for cache in CACHE_FOLDERS
            for folder, _, names in os.walk(self.root / cache)
            for name in names
        )
        return sum(file.st_size for file in files if file.st_nlink == 1)


def move_into_place(folder: Path, final: Path) -> None:
    """Makes the folder visible under its final name in one step; the first of two wins."""
    folder.chmod(0o755)
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)
