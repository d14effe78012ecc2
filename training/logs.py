"""A job's output: stored in pieces as it comes, kept within a quota, read as one text.

Over the quota the head and the tail stay and the middle goes; the gap between two pieces says how
much was cut.
"""

import threading
import time
from collections.abc import Callable, Iterator

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Sum

from training.models import Attempt, Job, LogChunk

CHUNK_BYTES = 64 * 1024
FLUSH_SECONDS = 0.3


def stored_end(attempt: Attempt, part: str) -> int:
    """How many bytes of the stream have been taken over so far (kept or cut)."""
    last = attempt.log_chunks.filter(part=part).order_by("-offset").values("offset", "size").first()
    return 0 if last is None else int(last["offset"]) + int(last["size"])


def append(attempt: Attempt, part: str, *, offset: int, data: bytes) -> None:
    """Stores `data`, which begins at byte `offset` of the stream. Storing it twice is harmless."""
    pieces = [
        LogChunk(
            attempt=attempt,
            part=part,
            offset=offset + start,
            size=len(data[start : start + CHUNK_BYTES]),
            data=data[start : start + CHUNK_BYTES],
        )
        for start in range(0, len(data), CHUNK_BYTES)
    ]
    with transaction.atomic():
        LogChunk.objects.bulk_create(pieces, ignore_conflicts=True)
        _keep_quota(attempt, part)


def text_of(job: Job) -> str:
    """Everything the job printed so far, with a mark where something was cut."""
    return b"".join(_pieces(job)).decode(errors="replace")


def tail_of(attempt: Attempt, *, size: int) -> str:
    """The last `size` bytes (about) that the script printed."""
    chunks = attempt.log_chunks.filter(part=LogChunk.Part.RUN).order_by("-offset")
    pieces: list[bytes] = []
    for chunk in chunks.iterator(chunk_size=8):
        pieces.insert(0, bytes(chunk.data))
        if sum(map(len, pieces)) >= size:
            break
    return b"".join(pieces)[-size:].decode(errors="replace")


def _pieces(job: Job) -> Iterator[bytes]:
    chunks = LogChunk.objects.filter(attempt__job=job)
    expected, stream = 0, None
    for chunk in chunks.order_by("attempt__number", "part", "offset"):
        if stream != (chunk.attempt_id, chunk.part):
            stream, expected = (chunk.attempt_id, chunk.part), 0
        if chunk.offset > expected:
            yield f"\n[... {chunk.offset - expected} bytes cut ...]\n".encode()
        yield bytes(chunk.data)
        expected = chunk.offset + chunk.size


def _keep_quota(attempt: Attempt, part: str) -> None:
    chunks = attempt.log_chunks.filter(part=part)
    seen = chunks.aggregate(end=Max("offset"), kept=Sum("size"))
    if (seen["kept"] or 0) <= settings.JOB_LOG_MAX_BYTES:
        return
    half = settings.JOB_LOG_MAX_BYTES // 2
    chunks.filter(offset__gte=half, offset__lt=(seen["end"] or 0) - half).delete()


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
