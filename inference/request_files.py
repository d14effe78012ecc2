"""The files of the sampled log of requests: lines of JSON, bounded in size and age.

They hold what clients sent and models answered: data of customers. Each process that writes has
files of its own; any of them may delete the oldest.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

NAME = re.compile(r"(\d{15})-\d+\.jsonl")
# Of all that may be kept; the oldest file goes as a whole.
PARTS = 8
SEGMENT_SECONDS = 3600.0
READ_MOST_BYTES = 64 * 1024 * 1024
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Kept:
    """How much is kept: bytes in all, and how long."""

    total_bytes: int
    days: float


class RequestFiles:
    """Written by one thread of one process."""

    def __init__(self, folder: Path, kept: Kept) -> None:
        self._folder = folder
        self._kept = kept
        self._path: Path | None = None
        self._begun = 0.0
        self._written = 0

    def append(self, lines: Iterable[bytes]) -> None:
        """Raises OSError."""
        content = b"".join(lines)
        if self._path is None or self._is_full(len(content)):
            self._begin()
        assert self._path is not None  # noqa: S101 - begun
        # Made anew where somebody deleted it; nobody but the platform's own accounts may read it.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(content)
        self._written += len(content)

    def purge(self) -> None:
        purge(self._folder, self._kept)

    def _is_full(self, more: int) -> bool:
        size = self._written + more
        return size > self._kept.total_bytes // PARTS or self._age() > SEGMENT_SECONDS

    def _age(self) -> float:
        return time.time() - self._begun

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._begun, self._written = time.time(), 0
        name = f"{int(self._begun * 1000):015d}-{os.getpid()}.jsonl"
        self._path = self._folder / name
        self.purge()


def purge(folder: Path, kept: Kept) -> int:
    """Deletes what is too old, and the oldest of what is too much; how many files.

    What a whole file more takes stays free: one is begun now. Safe beside another purge.
    """
    oldest = time.time() - kept.days * DAY_SECONDS
    left, gone = kept.total_bytes - kept.total_bytes // PARTS, 0
    for path in _newest_first(folder):
        with contextlib.suppress(FileNotFoundError):
            left -= path.stat().st_size
            if left < 0 or _begun(path) + SEGMENT_SECONDS < oldest:
                path.unlink()
                gone += 1
    return gone


def newest(
    folder: Path, *, model_name: str, version: str = "", request_id: str = "", limit: int
) -> list[dict[str, Any]]:
    """The newest records of a model, of a bounded part of what is kept. Raises OSError."""
    found = []
    for record in _records(folder):
        if record.get("model_name") != model_name:
            continue
        if version not in ("", record.get("model_version")):
            continue
        if request_id not in ("", record.get("request_id")):
            continue
        found.append(record)
        if len(found) >= limit:
            break
    return sorted(found, key=lambda record: str(record.get("time")), reverse=True)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    left = READ_MOST_BYTES
    for path in _newest_first(folder):
        with contextlib.suppress(FileNotFoundError):
            left -= path.stat().st_size
            if left < 0:
                return
            for line in reversed(path.read_bytes().splitlines()):
                # The last line of a process that was killed may be half a one.
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield orjson.loads(line)


def _newest_first(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    return sorted(paths, reverse=True)


def _begun(path: Path) -> float:
    return int(path.name[:15]) / 1000
