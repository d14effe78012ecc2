"""What a build that somebody asked for prints, in the environment's row, also while it goes on.

The row is written about once a second, and never so that the build would fail for it. While it goes
on it has the beginning, up to the quota; when it has ended, the end, where the errors are.
"""

import codecs
import logging
import time
from collections.abc import Callable

from django.db import DatabaseError

from training.models import BuiltEnvironment

log = logging.getLogger(__name__)

BUILD_LOG_CHARACTERS = 200_000
STORE_SECONDS = 1.0


def kept(text: str) -> str:
    """What is kept of what a build printed that has ended."""
    return storable(text[-BUILD_LOG_CHARACTERS:])


def storable(text: str) -> str:
    """PostgreSQL keeps no NUL in a text."""
    return text.replace("\x00", "\ufffd")


class BuildOutput:
    """Of one build. Half a character at the end waits for its other half."""

    def __init__(self, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = BuiltEnvironment.objects.filter(pk=key)
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pieces: list[str] = []
        self._characters = self._stored = 0
        self._stored_at = clock()

    def write(self, data: bytes) -> None:
        piece = self._decoder.decode(data)
        self._pieces.append(piece)
        self._characters += len(piece)
        if self._clock() - self._stored_at >= STORE_SECONDS:
            self._store()

    @property
    def text(self) -> str:
        """All of it; nothing more comes."""
        return "".join(self._pieces) + self._decoder.decode(b"", final=True)

    def _store(self) -> None:
        self._stored_at = self._clock()
        shown = min(self._characters, BUILD_LOG_CHARACTERS)
        if shown == self._stored:
            return
        try:
            self._rows.update(build_log=storable("".join(self._pieces)[:shown]))
        except DatabaseError as error:
            log.warning("environment.build_log_not_written %s", error)
        else:
            self._stored = shown
