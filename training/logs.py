"""A job's output: stored in pieces as it comes, kept within a quota, read by byte.

One stream a job: of each attempt first the build, then the run. Offsets count every byte that was
printed. Over the quota the head and the tail of a part stay and the middle goes; the gap between
two pieces says how much was cut. Of a run the launcher in the container sends no more than that,
and some samples of the middle while the script runs.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from sandbox.engine import Engine, EngineError
from sandbox.output import Run, printed
from training.models import Attempt, Job, LogChunk

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
FLUSH_SECONDS = 0.3
# A last chunk smaller than this grows; one row for so many bytes of a script that prints slowly.
SMALL_CHUNK_BYTES = 8 * 1024


# -- writing -------------------------------------------------------------------------------------
def stored_end(attempt: Attempt, part: str) -> int:
    """How many bytes of the part have been taken over so far (kept or cut)."""
    last = attempt.log_chunks.filter(part=part).order_by("-offset").values("offset", "size").first()
    return 0 if last is None else int(last["offset"]) + int(last["size"])


def append(attempt: Attempt, part: str, *, offset: int, data: bytes) -> None:
    """Stores `data`, which begins at byte `offset` of the part."""
    append_runs(attempt, part, [(offset, data)])


def append_runs(attempt: Attempt, part: str, runs: Sequence[Run]) -> None:
    """Stores bytes of the part, each run with the offset of its first.

    What is stored already is not stored again, so that two may hand in the same bytes; a tail may
    fill the gaps between samples that came before it. Late news of an attempt that is over is
    dropped: the offsets of the next attempt count on its length.
    """
    with transaction.atomic():
        # Waits for whoever stores at this moment.
        held = Attempt.objects.select_for_update().filter(pk=attempt.pk, finished_at=None)
        if not held.values_list("pk").first():
            return
        end_before = stored_end(attempt, part)
        end = max([end_before, *(offset + len(data) for offset, data in runs if data)])
        for offset, data in runs:
            if not _is_cut(offset, offset + len(data), end=end):
                _store(attempt, part, offset=offset, data=data)
        if end > end_before:
            told: dict[str, Any] = {"log_bytes": F("log_bytes") + end - end_before}
            if part == LogChunk.Part.RUN and not end_before:
                told["first_output_at"] = timezone.now()
            held.update(**told)
            _keep_quota(attempt, part, end=end)


def take_the_rest(attempt: Attempt, engine: Engine) -> bool:
    """What a container that has ended printed and nobody has stored yet; whether that is all of it.

    A follower that was killed leaves it; the engine has it until the container is removed, but for
    what is printed while the engine itself is down. Raises EngineUnavailable: what cannot be read
    now must not be removed.
    """
    intake = Intake()
    is_whole = False
    try:
        for offset, data in printed(engine.recorded_logs(attempt.container_id)):
            is_whole = not data
            intake.put(offset, data)
            if intake.is_full:
                append_runs(attempt, LogChunk.Part.RUN, intake.take())
    except EngineError:
        log.warning("job.log_not_read_to_its_end", extra={"attempt": attempt.pk})
        is_whole = False
    finally:
        append_runs(attempt, LogChunk.Part.RUN, intake.take())
    return is_whole


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
    """What a reader has read and nobody has stored yet; bounded, whatever the engine sends.

    The launcher sends less than makes it full. What is put into a full one is dropped: it shows as
    cut until the attempt's end, when all is read again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._max_bytes = 2 * settings.JOB_LOG_MAX_BYTES
        self._runs: list[tuple[int, bytearray]] = []
        self._waiting = 0
        self._end = 0

    @property
    def end(self) -> int:
        """The offset behind the last byte that was read."""
        return self._end

    @property
    def is_full(self) -> bool:
        return self._waiting >= self._max_bytes

    def put(self, offset: int, data: bytes) -> None:
        with self._lock:
            self._end = max(self._end, offset + len(data))
            if self.is_full or not data:
                return
            self._waiting += len(data)
            if self._runs and offset == self._runs[-1][0] + len(self._runs[-1][1]):
                self._runs[-1][1].extend(data)
            else:
                self._runs.append((offset, bytearray(data)))

    def take(self) -> list[Run]:
        """Everything, in runs without a gap, each with the offset of its first byte."""
        with self._lock:
            runs, self._runs = self._runs, []
            self._waiting = 0
        return [(offset, bytes(data)) for offset, data in runs]


def _is_cut(start: int, end_of_run: int, *, end: int) -> bool:
    """Whether the whole run lies in the middle that the quota cuts."""
    half = settings.JOB_LOG_MAX_BYTES // 2
    return start >= half and end_of_run <= end - half


def _store(attempt: Attempt, part: str, *, offset: int, data: bytes) -> None:
    """What is missing of these bytes; chunks in its midst, whose bytes it repeats, go.

    The chunk before them grows as long as it is small, so that a script that prints all the time
    makes few rows.
    """
    chunks = attempt.log_chunks.filter(part=part)
    end = offset + len(data)
    near = chunks.filter(offset__gte=offset - CHUNK_BYTES, offset__lte=end).order_by("offset")
    places = list(near.values_list("offset", "size"))
    start = offset
    for chunk_start, size in places:
        if chunk_start <= start < chunk_start + size:
            start = chunk_start + size
    # A chunk that goes on behind the run keeps its place.
    end = min([end, *(at for at, size in places if start <= at and at + size > end)])
    if start >= end:
        return
    fresh = data[start - offset : end - offset]
    before = [at for at, size in places if at + size == start and size < SMALL_CHUNK_BYTES]
    if before:
        start = before[0]
        fresh = bytes(chunks.get(offset=start).data) + fresh
    chunks.filter(offset__gte=start, offset__lt=end).delete()
    LogChunk.objects.bulk_create(_chunks(attempt, part, offset=start, data=fresh))


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


def _keep_quota(attempt: Attempt, part: str, *, end: int) -> None:
    """Deletes what is neither in the first nor in the last half of the quota."""
    if end <= settings.JOB_LOG_MAX_BYTES:
        return
    half = settings.JOB_LOG_MAX_BYTES // 2
    chunks = attempt.log_chunks.filter(part=part)
    chunks.filter(offset__gte=half, offset__lt=end - half).delete()


# -- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Piece:
    """Bytes of the job's stream from `offset` on; `dropped` counts what was cut before them."""

    offset: int
    data: bytes
    dropped: int = 0
    attempt: int = 1
    part: str = LogChunk.Part.RUN

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    def shown(self) -> bytes:
        """The bytes, after a mark where something was cut."""
        mark = f"\n[... {self.dropped} bytes cut ...]\n".encode() if self.dropped else b""
        return mark + self.data


@dataclass(frozen=True)
class Choice:
    """Which parts of a job's stream are meant; nothing named means all of it."""

    attempt: int | None = None
    part: str | None = None

    @property
    def is_everything(self) -> bool:
        return self.attempt is None and self.part is None


@dataclass(frozen=True)
class Segment:
    """One part of one attempt: the bytes from `start` to `end` of the job's stream."""

    attempt_id: int
    attempt: int
    part: str
    start: int
    end: int


EVERYTHING = Choice()


def size_of(job: Job) -> int:
    """How many bytes the job has printed so far, over all attempts."""
    return sum(job.attempts.values_list("log_bytes", flat=True))


def segments_of(job: Job, choice: Choice = EVERYTHING) -> list[Segment]:
    """Where each part of each attempt lies in the stream, in order."""
    found: list[Segment] = []
    start = 0
    for attempt in job.attempts.order_by("number").only("pk", "number"):
        for part in (LogChunk.Part.BUILD, LogChunk.Part.RUN):
            end = start + stored_end(attempt, part)
            found.append(Segment(attempt.pk, attempt.number, part, start, end))
            start = end
    return [segment for segment in found if _is_chosen(segment, choice)]


def pieces_of(job: Job, *, offset: int = 0, choice: Choice = EVERYTHING) -> Iterator[Piece]:
    """What is kept of the job's stream from byte `offset` on, in order; one chunk at a time."""
    for segment in segments_of(job, choice):
        if segment.end > offset:
            yield from _pieces_of_segment(segment, offset=offset)


def whole_characters(pieces: Iterable[Piece], *, final: bool) -> Iterator[Piece]:
    """The same bytes, cut so that no piece ends inside a UTF-8 character.

    The start of a character at the very end is held back until the rest comes; `final` says that
    none will. What is not UTF-8 is not waited for.
    """
    held: Piece | None = None
    for piece in pieces:
        if held is not None and _goes_on(held, piece):
            piece = replace(held, data=held.data + piece.data)
        elif held is not None:
            yield held
        cut = _whole_until(piece.data)
        if cut:
            yield replace(piece, data=piece.data[:cut])
        dropped = 0 if cut else piece.dropped
        rest = replace(piece, offset=piece.offset + cut, data=piece.data[cut:], dropped=dropped)
        held = rest if rest.data else None
    if held is not None and final:
        yield held


def kept_between(job: Job, *, start: int, end: int, choice: Choice = EVERYTHING) -> int:
    """How many bytes of that stretch are stored; what the parts had beside them was cut."""
    kept = 0
    for segment in segments_of(job, choice):
        low, high = max(start, segment.start), min(end, segment.end)
        if low < high:
            kept += _kept_of_segment(segment, start=low - segment.start, end=high - segment.start)
    return kept


def length_between(job: Job, *, start: int, end: int, choice: Choice = EVERYTHING) -> int:
    """How many bytes of that stretch were printed, kept or not."""
    segments = segments_of(job, choice)
    return sum(max(0, min(end, part.end) - max(start, part.start)) for part in segments)


def offset_of_tail(job: Job, *, lines: int, choice: Choice = EVERYTHING) -> int:
    """Where the last `lines` lines begin; a line that has no end yet is one of them."""
    segments = segments_of(job, choice)
    end = segments[-1].end if segments else 0
    if lines == 0:
        return end
    breaks = 0
    for segment in reversed(segments):
        for start, data in _chunks_backwards(segment):
            place = len(data)
            while (place := data.rfind(b"\n", 0, place)) >= 0:
                after = start + place + 1
                breaks += after != end
                if breaks == lines:
                    return after
    return segments[0].start if segments else 0


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


def _goes_on(held: Piece, piece: Piece) -> bool:
    same_part = (held.attempt, held.part) == (piece.attempt, piece.part)
    return same_part and piece.offset == held.end and not piece.dropped


def _is_chosen(segment: Segment, choice: Choice) -> bool:
    return choice.attempt in (None, segment.attempt) and choice.part in (None, segment.part)


def _pieces_of_segment(segment: Segment, *, offset: int) -> Iterator[Piece]:
    wanted = max(0, offset - segment.start)
    # A chunk is at most CHUNK_BYTES long: none that begins before this reaches what is wanted.
    chunks = _chunks_of(segment).filter(offset__gt=wanted - CHUNK_BYTES).order_by("offset")
    expected = wanted
    for chunk in chunks.iterator(chunk_size=8):
        data = bytes(chunk.data)[max(0, wanted - chunk.offset) :]
        start = chunk.offset + chunk.size - len(data)
        if data:
            yield Piece(
                segment.start + start,
                data,
                dropped=start - expected,
                attempt=segment.attempt,
                part=segment.part,
            )
            expected = start + len(data)


def _kept_of_segment(segment: Segment, *, start: int, end: int) -> int:
    chunks = _chunks_of(segment).filter(offset__gt=start - CHUNK_BYTES, offset__lt=end)
    sizes = chunks.order_by("offset").values_list("offset", "size").iterator()
    return sum(max(0, min(end, offset + size) - max(start, offset)) for offset, size in sizes)


def _chunks_backwards(segment: Segment) -> Iterator[tuple[int, bytes]]:
    for chunk in _chunks_of(segment).order_by("-offset").iterator(chunk_size=8):
        yield segment.start + chunk.offset, bytes(chunk.data)


def _chunks_of(segment: Segment) -> QuerySet[LogChunk]:
    return LogChunk.objects.filter(attempt=segment.attempt_id, part=segment.part)


def _whole_until(data: bytes) -> int:
    """The length of `data` without a character at its end whose rest is still missing."""
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # the middle of a character: its first byte says how long it is
        length = 2 if 0xC2 <= byte <= 0xDF else 3 if byte & 0xF0 == 0xE0 else 0
        length = 4 if 0xF0 <= byte <= 0xF4 else length
        return len(data) - back if length > back else len(data)
    return len(data)
