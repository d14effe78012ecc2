"""`python -m registry.online.process REPO`: answers questions for features on its standard input.

The web process starts it for the first request that names entities. That input is a socket, both
ways, and this process ends with it. Importing Feast takes seconds, it changes how the whole process
reads dates out of SQLite, and what a feature view computes it keeps as a pickle: none of that may
happen where requests are answered.
"""

import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from registry.online.frames import (
    LENGTH,
    Feature,
    FeatureQuestion,
    NotNow,
    NotReadable,
    framed,
)

THREADS = 4


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    desk = _Desk(line, Path(sys.argv[1]))
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="features")
    threads.submit(desk.open)
    while (content := _next(line)) is not None:
        threads.submit(desk.answer, orjson.loads(content))
    # Whoever asked is gone: what is still being read is for nobody.
    os._exit(0)


class _Desk:
    """What each thread does with one question."""

    def __init__(self, line: socket.socket, repo: Path) -> None:
        self._line = line
        self._repo = repo
        self._reader: Any = None
        self._opening, self._sending = threading.Lock(), threading.Lock()

    def open(self) -> None:
        """Says when Feast is imported; whether the store is there is said in each answer."""
        self._send(self._attempt({"ready": True}, lambda: self._opened().open()))

    def answer(self, message: dict[str, Any]) -> None:
        question = FeatureQuestion.read(message)
        known = {"id": message["id"]}
        self._send(self._attempt(known, lambda: _documents(self._opened().read(question))))

    def _opened(self) -> Any:
        with self._opening:
            if self._reader is None:
                # Here and not above: it imports Feast, which takes 5 to 13 seconds.
                from registry.online.reader import FeatureReader  # noqa: PLC0415

                self._reader = FeatureReader(self._repo)
            return self._reader

    def _attempt(self, known: dict[str, Any], read: Callable[[], Any]) -> bytes:
        """One frame, whatever happens: a loop guard, since a store may raise anything."""
        try:
            return framed({**known, "features": read()})
        except NotReadable as wrong:
            return framed({**known, "wrong": wrong.document()})
        except NotNow as later:
            return framed({**known, "not_now": str(later)})
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            # Its text may hold addresses and passwords: that is for the log alone.
            return framed({**known, "failed": type(error).__name__})

    def _send(self, content: bytes) -> None:
        with self._sending:
            self._line.sendall(content)


def _documents(features: list[Feature]) -> list[dict[str, Any]]:
    return [feature.document() for feature in features]


def _next(line: socket.socket) -> bytes | None:
    head = _exactly(line, LENGTH.size)
    return None if head is None else _exactly(line, LENGTH.unpack(head)[0])


def _exactly(line: socket.socket, size: int) -> bytes | None:
    """None when the line has ended."""
    content = bytearray()
    while len(content) < size:
        part = line.recv(min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)


if __name__ == "__main__":
    main()
