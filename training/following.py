"""What somebody who follows a job is told: its document, its log, its timeline.

Plain functions that read rows and block; `training.asgi` calls them in threads, the documented
views in `training.api.follow` at once. Nothing here waits and nothing writes.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
from rest_framework.renderers import JSONRenderer

from registry.rawhttp.asgi import Asked
from registry.rawhttp.problems import Answer, problem
from training import logs
from training.api.serializers import job_document, utc
from training.models import Job, JobEvent, LogChunk
from training.states import TERMINAL
from training.watch import Glimpse, look

WAIT_MAX_SECONDS = 60
TAIL_MAX_LINES = 1_000_000
OFFSET_MAX = 2**62
RETRY_MAX_SECONDS = 30
# One second more for so many jobs that wait before this one.
JOBS_PER_SECOND = 5
STREAM_PIECE_BYTES = 256 * 1024
EVENTS_MAX = 500
END_MARK = "-end"
TEXT = "text/plain; charset=utf-8"
EVENT_STREAM = "text/event-stream"
EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
}
# What a client does when the stream ends before the job: it comes back after so long.
RECONNECT = b"retry: 1000\n\n"
KEEP_ALIVE = b": still here\n\n"
PREFERRED_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=[,;]|$)', re.IGNORECASE)
RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")
# Some readers split lines at these as well; in JSON they can be written in another way.
LINE_SEPARATORS = {
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
    b"\xc2\x85": b"\\u0085",
}


class Refused(Exception):
    """The request ends here, with this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer[0])
        self.answer = answer


# -- reading the request --------------------------------------------------------------------------
@dataclass(frozen=True)
class Wait:
    """How long the client lets itself be held; `preferred` when it asked for it with `Prefer`."""

    seconds: int
    preferred: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"preference-applied": f"wait={self.seconds}"} if self.preferred else {}


@dataclass(frozen=True)
class LogQuestion:
    """Which bytes of a job's log."""

    choice: logs.Choice
    offset: int = 0
    length: int | None = None
    tail: int | None = None
    download: bool = False

    @property
    def is_whole(self) -> bool:
        begins = self.offset == 0 and self.length is None and self.tail is None
        return begins and self.choice.is_everything


def wait_of(asked: Asked) -> Wait | None:
    """`?wait=30`, or `Prefer: wait=30` (RFC 7240, which is never refused). Raises Refused."""
    seconds = _number(asked, "wait", maximum=10**9)
    if seconds is not None:
        return Wait(min(seconds, WAIT_MAX_SECONDS)) if seconds else None
    found = PREFERRED_WAIT.search(asked.headers.get("prefer", ""))
    if found is None or int(found[1]) == 0:
        return None
    return Wait(min(int(found[1]), WAIT_MAX_SECONDS), preferred=True)


def wants_stream(asked: Asked) -> bool:
    """Whether to follow live. `?follow=` wins over the Accept header. Raises Refused."""
    told = _flag(asked, "follow")
    return asked.accepts(EVENT_STREAM) if told is None else told


def log_question(asked: Asked) -> LogQuestion:
    """Raises Refused, which names the parameter that is wrong."""
    part = asked.query.get("part")
    if part is not None and part not in LogChunk.Part.values:
        raise _bad(asked, "part", "Expected build or run.")
    tail = _number(asked, "tail", maximum=TAIL_MAX_LINES)
    offset = _number(asked, "offset", maximum=OFFSET_MAX)
    if tail is not None and offset is not None:
        raise _bad(asked, "tail", "Either tail or offset: each says where to begin.")
    return LogQuestion(
        choice=logs.Choice(attempt=_number(asked, "attempt", maximum=10**6), part=part),
        offset=offset or 0,
        length=_number(asked, "length", maximum=OFFSET_MAX),
        tail=tail,
        download=bool(_flag(asked, "download")),
    )


def last_event_id(asked: Asked) -> int | None:
    """Where the client's stream broke off. What was never an id of ours begins anew.

    Raises Refused with 204 for a client that has seen the end: that tells a browser to stop.
    """
    told = asked.headers.get("last-event-id", "").strip()
    if told.endswith(END_MARK):
        raise Refused((204, {}, b""))
    is_number = told.isascii() and told.isdecimal() and len(told) < 19
    return int(told) if is_number else None


def events_after(asked: Asked) -> int:
    """`?after=`. Raises Refused."""
    return _number(asked, "after", maximum=OFFSET_MAX) or 0


def find_job(asked: Asked, job_id: str) -> Job:
    """Without its large fields. Raises Refused with the contract's sentence."""
    return find_seen(asked, job_id)[1]


def find_seen(asked: Asked, job_id: str) -> tuple[Glimpse, Job]:
    """The job, and how far it was just before it was read. Raises Refused."""
    try:
        found = _seen(uuid.UUID(job_id))
    except ValueError:
        found = None
    if found is None:
        detail = f"Job {job_id} not found"
        raise Refused(problem(404, "job_not_found", detail, instance=asked.path))
    return found


def _seen(job_id: uuid.UUID) -> tuple[Glimpse, Job] | None:
    """In this order: a change in between makes the glimpse too old, so that it is looked at again.

    The other way round it would be taken for known, and never told.
    """
    glimpse = look([job_id]).get(job_id)
    job = Job.objects.defer("script", "environment_lock").filter(pk=job_id).first()
    return None if glimpse is None or job is None else (glimpse, job)


def _number(asked: Asked, name: str, *, maximum: int) -> int | None:
    told = asked.query.get(name)
    if told is None:
        return None
    if not (told.isascii() and told.isdecimal()) or len(told) > 19 or int(told) > maximum:
        raise _bad(asked, name, f"Expected a whole number from 0 to {maximum}.")
    return int(told)


def _flag(asked: Asked, name: str) -> bool | None:
    told = asked.query.get(name)
    if told is None:
        return None
    if told not in ("0", "1", "false", "true"):
        raise _bad(asked, name, "Expected 1 or 0.")
    return told in ("1", "true")


def _bad(asked: Asked, name: str, detail: str) -> Refused:
    answer = problem(
        400,
        "invalid",
        f"The parameter {name} is not valid: {detail}",
        instance=asked.path,
        errors=[{"field": name, "detail": detail}],
    )
    return Refused(answer)


# -- the job --------------------------------------------------------------------------------------
def etag_of(glimpse: Glimpse) -> str:
    """Weak: two documents with the same one say the same, not byte for byte."""
    place = glimpse.waiting
    queued = f"-{place.position}{place.waiting_for}" if place else ""
    return f'W/"{glimpse.revision}-{glimpse.log_bytes}{queued}"'


def is_known(asked: Asked, glimpse: Glimpse) -> bool:
    """Whether `If-None-Match` names the job as it is now."""
    told = asked.headers.get("if-none-match")
    if told is None:
        return False
    tags = {entry.strip().removeprefix("W/") for entry in told.split(",")}
    return "*" in tags or etag_of(glimpse).removeprefix("W/") in tags


def job_answer(asked: Asked, job_id: str, *, headers: Mapping[str, str] | None = None) -> Answer:
    """The job's document, or 304 when the client has it. Raises Refused."""
    glimpse, job = find_seen(asked, job_id)
    told = {"etag": etag_of(glimpse), "vary": "Prefer", **(headers or {})}
    if job.status not in TERMINAL:
        told["retry-after"] = str(retry_after_seconds(glimpse))
    if is_known(asked, glimpse):
        return 304, told, b""
    # The place that the tag names, not the one of a moment later.
    document = job_document(job, waiting=glimpse.waiting)
    return 200, {"content-type": "application/json", **told}, _json(document)


def retry_after_seconds(glimpse: Glimpse) -> int:
    """When to ask again: the further back in the queue, the later."""
    if glimpse.waiting is None:
        return 1
    ahead = glimpse.waiting.position - 1
    return min(1 + ahead // JOBS_PER_SECOND, RETRY_MAX_SECONDS)


def _json(document: Any) -> bytes:
    """As the framework's views write it, so that both doors give the same bytes."""
    return bytes(JSONRenderer().render(document))


# -- the log --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LogText:
    """An answer with the log as text: its head, and where the pieces of its body lie."""

    status: int
    headers: Mapping[str, str]
    job: Job
    choice: logs.Choice
    start: int
    end: int

    def pieces(self, at: int) -> Iterator[tuple[int, bytes]]:
        """The body from byte `at` on, a chunk at a time, each with the offset behind it.

        A 206 is exact and has no marks.
        """
        for piece in logs.pieces_of(self.job, offset=at, choice=self.choice):
            if piece.offset >= self.end:
                return
            kept = replace(piece, data=piece.data[: self.end - piece.offset])
            yield kept.end, kept.data if self.status == 206 else kept.shown()


def log_text(asked: Asked, job: Job, question: LogQuestion) -> LogText | Answer:
    """The log as it is now. Headers say how to go on: next offset, size, and what was cut."""
    size = logs.size_of(job)
    start = min(_first_byte(job, question), size)
    end = size if question.length is None else min(size, start + question.length)
    whole = LogText(200, {}, job, question.choice, start, end)
    dropped = _dropped(whole)
    headers = _log_headers(whole, size=size, dropped=dropped)
    if question.download:
        headers["content-disposition"] = f'attachment; filename="job-{job.pk}.log"'
    if not question.is_whole or dropped:
        return replace(whole, headers=headers)
    headers["accept-ranges"] = "bytes"
    return _ranged(asked, replace(whole, headers=headers))


def _ranged(asked: Asked, whole: LogText) -> LogText | Answer:
    """`Range` of a log of which nothing was cut; one that cannot be read is ignored."""
    found = RANGE.match(asked.headers.get("range", "").replace(" ", ""))
    # Our tags are weak, which `If-Range` never matches: then the whole is right.
    if found is None or found[0] == "bytes=-" or "if-range" in asked.headers:
        return whole
    first, last = found.groups()
    size = whole.end
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return whole
    if start >= size:
        status, headers, content = problem(
            416,
            "range_not_satisfiable",
            f"The log has {size} bytes so far.",
            instance=asked.path,
        )
        return status, {**headers, "content-range": f"bytes */{size}"}, content
    headers = {
        **whole.headers,
        "content-range": f"bytes {start}-{end - 1}/{size}",
        "content-length": str(end - start),
        "x-log-next-offset": str(end),
    }
    return replace(whole, status=206, headers=headers, start=start, end=end)


def _first_byte(job: Job, question: LogQuestion) -> int:
    if question.tail is None:
        chosen = logs.segments_of(job, question.choice)
        return max(question.offset, chosen[0].start) if chosen else question.offset
    return logs.offset_of_tail(job, lines=question.tail, choice=question.choice)


def _dropped(text: LogText) -> int:
    job, choice = text.job, text.choice
    printed = logs.length_between(job, start=text.start, end=text.end, choice=choice)
    return printed - logs.kept_between(job, start=text.start, end=text.end, choice=choice)


def _log_headers(text: LogText, *, size: int, dropped: int) -> dict[str, str]:
    return {
        "content-type": TEXT,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "x-log-offset": str(text.start),
        "x-log-next-offset": str(text.end),
        "x-log-size": str(size),
        "x-log-dropped": str(dropped),
        "vary": "Accept",
    }


# -- streams --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Frames:
    """The next events of a stream, ready to be sent, and the position behind them.

    `glimpse` is how far the job was when they were read: a later one means that there is more.
    """

    data: bytes
    position: "LogPosition | EventPosition"
    glimpse: Glimpse
    caught_up: bool
    ended: bool = False

    def glimpse_passed(self, seen: Glimpse) -> bool:
        """Whether there is more by now."""
        return seen.is_after(self.glimpse)


@dataclass(frozen=True)
class LogPosition:
    """What a follower of a log has seen. Equal ones see the same next, and share the reading."""

    job_id: uuid.UUID
    choice: logs.Choice
    offset: int
    revision: int = -1


@dataclass(frozen=True)
class EventPosition:
    """What a follower of a timeline has seen."""

    job_id: uuid.UUID
    after: int


def position_of(asked: Asked, job: Job, what: str) -> LogPosition | EventPosition:
    """Where to begin: behind the last event, else where the parameters say. Raises Refused."""
    if what == "events":
        after = events_after(asked)
        resumed = last_event_id(asked)
        return EventPosition(job.pk, after if resumed is None else resumed)
    question = log_question(asked)
    resumed = last_event_id(asked)
    offset = _first_byte(job, question) if resumed is None else resumed
    return LogPosition(job.pk, question.choice, offset)


def frames_after(position: LogPosition | EventPosition) -> Frames | None:
    """At most some hundred KiB of what comes behind `position`; None for a deleted job."""
    seen = _seen(position.job_id)
    if seen is None:
        return None
    glimpse, job = seen
    if isinstance(position, LogPosition):
        return _log_frames(job, glimpse, position)
    return _event_frames(job, glimpse, position)


def _log_frames(job: Job, glimpse: Glimpse, position: LogPosition) -> Frames:
    """The job was read before its log: an ended one had its whole log by then."""
    ended = job.status in TERMINAL
    frames: list[bytes] = []
    if job.revision != position.revision and not ended:
        frames.append(event_frame("state", _state(job)))
    offset, size, caught_up = position.offset, 0, True
    pieces = logs.pieces_of(job, offset=position.offset, choice=position.choice)
    for piece in logs.whole_characters(pieces, final=ended):
        if size >= STREAM_PIECE_BYTES:
            caught_up = False
            break
        frames.append(event_frame("log", _log_document(piece), event_id=str(piece.end)))
        offset, size = piece.end, size + len(piece.data)
    moved = replace(position, offset=offset, revision=job.revision)
    if not ended or not caught_up:
        return Frames(b"".join(frames), moved, glimpse, caught_up)
    frames += [event_frame("state", _state(job)), _end_frame(job, str(offset))]
    return Frames(b"".join(frames), moved, glimpse, caught_up, ended=True)


def _event_frames(job: Job, glimpse: Glimpse, position: EventPosition) -> Frames:
    events = list(job.events.filter(pk__gt=position.after)[:EVENTS_MAX])
    frames = [
        event_frame("event", event_document(event), event_id=str(event.pk)) for event in events
    ]
    after = events[-1].pk if events else position.after
    moved, caught_up = replace(position, after=after), len(events) < EVENTS_MAX
    if job.status not in TERMINAL or not caught_up:
        return Frames(b"".join(frames), moved, glimpse, caught_up)
    frames.append(_end_frame(job, str(after)))
    return Frames(b"".join(frames), moved, glimpse, caught_up, ended=True)


def event_frame(kind: str, document: Mapping[str, Any], *, event_id: str = "") -> bytes:
    """One server-sent event. JSON has no raw line break, so that no content can end it early."""
    data = orjson.dumps(document)
    for raw, escaped in LINE_SEPARATORS.items():
        data = data.replace(raw, escaped)
    named = f"id: {event_id}\n" if event_id else ""
    return f"{named}event: {kind}\ndata: ".encode() + data + b"\n\n"


def _end_frame(job: Job, seen: str) -> bytes:
    document = {**_state(job), "error": job.error or None, "hint": job.hint or None}
    return event_frame("end", document, event_id=f"{seen}{END_MARK}")


def _state(job: Job) -> dict[str, Any]:
    return {"status": job.status, "phase": job.phase, "reason": job.reason or None}


def _log_document(piece: logs.Piece) -> dict[str, Any]:
    return {
        "text": piece.data.decode(errors="replace"),
        "offset": piece.offset,
        "part": str(piece.part),
        "attempt": piece.attempt,
        "dropped": piece.dropped,
    }


# -- the timeline ---------------------------------------------------------------------------------
def events_answer(asked: Asked, job: Job) -> Answer:
    """What happened to the job, oldest first, behind `after`. Raises Refused."""
    after = events_after(asked)
    events = list(job.events.filter(pk__gt=after)[:EVENTS_MAX])
    document = {
        "job_id": str(job.pk),
        "status": job.status,
        "events": [event_document(event) for event in events],
        "next_after": events[-1].pk if events else after,
    }
    headers = {"content-type": "application/json", "cache-control": "no-store", "vary": "Accept"}
    return 200, headers, _json(document)


def event_document(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.pk,
        "at": utc(event.at),
        "name": event.name,
        "status": event.status,
        "phase": event.phase,
        "attempt": event.attempt,
        "actor": event.actor or None,
        "reason": event.reason or None,
        "detail": event.detail or None,
    }
