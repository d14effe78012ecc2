"""How many bytes of bodies and answers the process holds for requests that are under way."""

import threading
from types import TracebackType

from django.conf import settings

# Shorter answers are not counted: that would cost more than they do.
COUNTED_BYTES = 64 * 1024


class _Memory:
    """Counted, not measured; of the process, whose threads may each have an event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, size: int) -> bool:
        with self._lock:
            if self._bytes + size > settings.INFERENCE_HELD_BYTES:
                return False
            self._bytes += size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


_memory = _Memory()


class Share:
    """What one request holds; all of it goes back at the end of its block."""

    def __init__(self) -> None:
        self._bytes = 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """For who cannot have a block; may be called again."""
        if self._bytes:
            _memory.give(self._bytes)
            self._bytes = 0

    def take(self, size: int) -> bool:
        """Whether so many bytes more may be held; they are, then."""
        if not _memory.take(size):
            return False
        self._bytes += size
        return True
