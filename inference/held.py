"""How many bytes of bodies and answers the process holds for requests that are under way."""

from types import TracebackType

from django.conf import settings


class Memory:
    """Of one event loop; counted, not measured."""

    def __init__(self) -> None:
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Whether so many more may be held; they are, then."""
        if self._bytes + size > settings.INFERENCE_HELD_BYTES:
            return False
        self._bytes += size
        return True

    def give(self, size: int) -> None:
        self._bytes -= size


class Share:
    """What one request holds; all of it goes back at the end of its block."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bytes = 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.give(self._bytes)

    def take(self, size: int) -> bool:
        taken = self._memory.take(size)
        if taken:
            self._bytes += size
        return taken
