"""A job's output: stored in pieces as it comes, kept within a quota, read by byte.

One stream a job: of each attempt first the build, then the run. Offsets count every byte that was
printed. Over the quota the head and the tail of a part stay and the middle goes; the gap between
two pieces says how much was cut.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max, Sum

from sandbox.engine import Engine, EngineError
from training.models import Attempt, Job, LogChunk

CHUNK_BYTES = 64 * 1024
FLUSH_SECONDS = 0.3
# Some twenty times what fits between two looks of a supervisor that is busy.
BUFFER_BYTES = 4 * 1024 * 1024


# -- writing -------------------------------------------------------------------------------------
def stored_end(attempt: Attempt, part: str) -> int:
    """How many bytes of the part have been taken over so far (kept or cut)."""
    last = attempt.log_chunks.filter(part=part).order_by("-offset").values("offset", "size").first()
    return 0 if last is None else int(last["offset"]) + int(last["size"])


def append(attempt: Attempt, part: str, *, offset: int, data: bytes) -> None:
    """Stores `data`, which begins at byte `offset` of the part.

    What is stored already is not stored again, so that two may hand in the same bytes.
    """
    with transaction.atomic():
        # Waits for whoever stores at this moment.
        Attempt.objects.select_for_update().only("pk").get(pk=attempt.pk)
        end = stored_end(attempt, part)
        fresh = data[max(0, end - offset) :]
        if not fresh:
            return
        start = offset + len(data) - len(fresh)
        LogChunk.objects.bulk_create(_chunks(attempt, part, offset=start, data=fresh))
        grown = start + len(fresh) - end
        Attempt.objects.filter(pk=attempt.pk).update(log_bytes=F("log_bytes") + grown)
        _keep_quota(attempt, part)


def take_the_rest(attempt: Attempt, engine: Engine) -> None:
    """What a container that has ended printed and nobody has stored yet.

    A follower that was killed leaves it; the engine has it until the container is removed. Raises
    EngineUnavailable: what cannot be read now must not be removed.
    """
    part = LogChunk.Part.RUN
    output = BufferedLog(attempt, part)
    to_skip = stored_end(attempt, part)
    try:
        for data in engine.recorded_logs(attempt.container_id):
            output.write(data[to_skip:])
            to_skip = max(0, to_skip - len(data))
    except EngineError:
        return
    finally:
        output.flush()


class BufferedLog:
    """Takes output as it comes and stores it a few times a second, not once a line."""

    def __init__(
        self, attempt: Attempt, part: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._attempt = attempt
        self._part = part
        self._clock = clock
        self._offset = stored_end(attempt, part)
        self._waiting = bytearray()
        self._stored_at = clock()
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock:
            self._waiting += data
            due = self._clock() - self._stored_at >= FLUSH_SECONDS
            if due or len(self._waiting) >= CHUNK_BYTES:
                self._store()

    def flush(self) -> None:
        with self._lock:
            self._store()

    def _store(self) -> None:
        if self._waiting:
            append(self._attempt, self._part, offset=self._offset, data=bytes(self._waiting))
            self._offset += len(self._waiting)
            self._waiting.clear()
        self._stored_at = self._clock()


class Intake:
    """What a reader thread has read and nobody has stored yet; bounded, whatever is printed.

    When the reader is faster, the middle goes: first comes what fits the head of the quota, and the
    newest bytes are never refused.
    """

    def __init__(self, *, offset: int) -> None:
        self._lock = threading.Lock()
        self._start = offset
        self._data = bytearray()

    @property
    def end(self) -> int:
        """The offset behind the last byte that was read."""
        with self._lock:
            return self._start + len(self._data)

    def put(self, data: bytes) -> None:
        with self._lock:
            self._data += data
            excess = len(self._data) - BUFFER_BYTES
            if excess > 0:
                del self._data[:excess]
                self._start += excess

    def take(self) -> tuple[int, bytes]:
        """Everything, with the offset of its first byte."""
        with self._lock:
            start, data = self._start, bytes(self._data)
            self._start += len(data)
            self._data.clear()
        return start, data


def _chunks(attempt: Attempt, part: str, *, offset: int, data: bytes) -> list[LogChunk]:
    return [
        LogChunk(
            attempt=attempt,
            part=part,
            offset=offset + start,
            size=len(data[start : start + CHUNK_BYTES]),
            data=data[start : start + CHUNK_BYTES],
        )
        for start in range(0, len(data), CHUNK_BYTES)
    ]


def _keep_quota(attempt: Attempt, part: str) -> None:
    chunks = attempt.log_chunks.filter(part=part)
    seen = chunks.aggregate(end=Max("offset"), kept=Sum("size"))
    if (seen["kept"] or 0) <= settings.JOB_LOG_MAX_BYTES:
        return
    half = settings.JOB_LOG_MAX_BYTES // 2
    chunks.filter(offset__gte=half, offset__lt=(seen["end"] or 0) - half).delete()


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Piece:
    """Bytes of the job's stream from `offset` on; `dropped` counts what was cut before them."""

    offset: int
    data: bytes
    dropped: int = 0

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    def shown(self) -> bytes:
        """The bytes, after a mark where something was cut."""
        mark = f"\n[... {self.dropped} bytes cut ...]\n".encode() if self.dropped else b""
        return mark + self.data


def size_of(job: Job) -> int:
    """How many bytes the job has printed so far, over all attempts."""
    return sum(job.attempts.values_list("log_bytes", flat=True))


def pieces_of(job: Job, *, offset: int = 0) -> Iterator[Piece]:
    """What is kept of the job's stream from byte `offset` on, in order."""
    base = 0
    for attempt in job.attempts.order_by("number").only("pk", "log_bytes"):
        for part in (LogChunk.Part.BUILD, LogChunk.Part.RUN):
            end = stored_end(attempt, part)
            if base + end > offset:
                yield from _pieces_of_part(attempt, part, base=base, offset=offset)
            base += end


def text_of(job: Job) -> str:
    """Everything the job printed so far, with a mark where something was cut."""
    return b"".join(piece.shown() for piece in pieces_of(job)).decode(errors="replace")


def tail_of(attempt: Attempt, *, size: int) -> str:
    """The last `size` bytes (about) that the script printed."""
    chunks = attempt.log_chunks.filter(part=LogChunk.Part.RUN).order_by("-offset")
    pieces: list[bytes] = []
    for chunk in chunks.iterator(chunk_size=8):
        pieces.insert(0, bytes(chunk.data))
        if sum(map(len, pieces)) >= size:
            break
    return b"".join(pieces)[-size:].decode(errors="replace")


def _pieces_of_part(attempt: Attempt, part: str, *, base: int, offset: int) -> Iterator[Piece]:
    wanted = max(0, offset - base)
    chunks = attempt.log_chunks.filter(part=part, offset__gt=wanted - CHUNK_BYTES)
    expected = wanted
    for chunk in chunks.order_by("offset").iterator(chunk_size=8):
        data = bytes(chunk.data)[max(0, wanted - chunk.offset) :]
        start = chunk.offset + chunk.size - len(data)
        if data:
            yield Piece(base + start, data, dropped=start - expected)
            expected = start + len(data)
