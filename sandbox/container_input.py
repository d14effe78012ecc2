"""The way into a container: one piece of data, once, and the line with which it answers."""

import contextlib
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sandbox.engine_errors import EngineUnavailable

# How often a container that does not answer is looked at.
LOOK_SECONDS = 1.0
READ_BYTES = 65536


class ContainerInput:
    """Attached to a container, before its start or after; what is written then waits for it.

    `record_of_ended` is what an ended container printed, and None while it runs.
    """

    def __init__(self, wrapped: Any, *, record_of_ended: Callable[[], bytes | None]) -> None:
        self._wrapped = wrapped
        self._socket: socket.socket = getattr(wrapped, "_sock", wrapped)
        self._socket.settimeout(LOOK_SECONDS)
        self._record_of_ended = record_of_ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wrapped.close()
        self._socket.close()

    def give(self, data: bytes) -> None:
        """All that it ever gets: the input is closed behind it. Raises EngineUnavailable."""
        try:
            self._socket.sendall(data)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise EngineUnavailable(str(error)) from error

    def answer(self, mark: bytes, *, timeout_seconds: float) -> bytes | None:
        """What follows `mark` in the first line of its output that begins with it.

        To be asked once the container was started. None when it ends without such a line; raises
        EngineUnavailable when neither comes in time, and what asking for its record raises.
        """
        try:
            return self._answer(mark, until=time.monotonic() + timeout_seconds)
        except OSError as error:
            raise EngineUnavailable(str(error)) from error

    def _answer(self, mark: bytes, *, until: float) -> bytes | None:
        """An engine leaves whoever attaches to a container that has ended just now without a word:
        then its record tells."""
        heard = b""
        while True:
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(READ_BYTES)
                heard += data
                found = _line_after(heard, mark)
                if found is not None or not data:
                    return found
                continue
            record = self._record_of_ended()
            if record is not None:
                return _line_after(record, mark)
            if time.monotonic() > until:
                raise TimeoutError("The container did not answer in time.")


def _line_after(heard: bytes, mark: bytes) -> bytes | None:
    """None as long as that line is not whole. The stream's own marks, eight bytes before each
    piece, stand before a line, never in one."""
    _, found, after = heard.partition(mark)
    line, newline, _ = after.partition(b"\n")
    return line if found and newline else None
