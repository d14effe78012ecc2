"""Waiting for jobs and following them, as a raw ASGI handler: nobody who waits holds a thread.

It answers GET and HEAD of a job, its log and its timeline. What is read for one client is read for
all who are at the same place; what a client does not take is not read for it.
"""

import asyncio
import itertools
import logging
import re
import uuid
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from registry.rawhttp.asgi import Asked, Receive, Scope, Send, read_request, send_answer, start
from registry.rawhttp.asgi import while_connected as _while_connected
from registry.rawhttp.problems import Answer, database_away, internal_error, problem
from training import following
from training.following import LogText, Refused
from training.watch import Glimpse, Watcher, look

log = logging.getLogger(__name__)
T = TypeVar("T")

PATHS = re.compile(r"^/mlops/training/jobs/(?P<job_id>[^/]+)(?:/(?P<what>logs|events))?/?$")
THREADS = 4
RETRY_AFTER_SECONDS = 5
KEEP_ALIVE_SECONDS = 15.0
# Who takes nothing for so long is gone, whatever the network says.
TAKE_SECONDS = 60.0
TEXT_PIECE_CHUNKS = 4


def is_followed(scope: Scope) -> bool:
    """Whether this handler answers the request; every other method is the views' to refuse."""
    return scope["method"] in ("GET", "HEAD") and PATHS.match(scope["path"]) is not None


async def following_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what `is_followed`; ends as soon as the client is gone."""
    await _while_connected(receive, _answer(scope, send))


async def close() -> None:
    """Ends the running loop's threads; the web process calls it when it ends."""
    room = _rooms.pop(asyncio.get_running_loop(), None)
    if room is not None:
        room.close()


async def _answer(scope: Scope, send: Send) -> None:
    """An error that nobody foresaw is logged and stays anonymous."""
    asked = read_request(scope)
    told = _Told(send)
    task = asyncio.ensure_future(_Conversation(_room(), asked, told).hold())
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
        # Its place is free before this returns, also for a client that is gone.
        await asyncio.wait([task])
    error = task.exception() if not task.cancelled() else None
    if isinstance(error, Refused):
        headers = {"x-content-type-options": "nosniff", **error.answer[1]}
        answer = (error.answer[0], headers, error.answer[2])
        await send_answer(told, answer, head_only=asked.head_only)
    elif isinstance(error, TimeoutError):
        log.info("follow.client_takes_nothing", extra={"path": asked.path})
    elif isinstance(error, OperationalError | InterfaceError) and not told.started:
        log.error("follow.database_away %s", error)
        await send_answer(told, database_away(instance=asked.path), head_only=asked.head_only)
    elif error is not None:
        log.error("follow.unexpected_error", exc_info=error, extra={"path": asked.path})
        if not told.started:
            answer = internal_error(instance=asked.path)
            await send_answer(told, answer, head_only=asked.head_only)


class _Told:
    """What the client is sent: each piece only when the one before was taken, with an end to it.

    Raises TimeoutError.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: dict[str, Any]) -> None:
        self.started = True
        async with asyncio.timeout(TAKE_SECONDS):
            await self._send(message)

    async def piece(self, data: bytes, *, last: bool = False) -> None:
        if data or last:
            await self({"type": "http.response.body", "body": data, "more_body": not last})


class _Room:
    """What all conversations of an event loop share: threads, the watcher, the places."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="follow")
        self._shared: dict[Hashable, asyncio.Task[Any]] = {}
        self._taken = 0
        self.watcher = Watcher(lambda job_ids: self.in_thread(look, job_ids))

    @contextmanager
    def place(self, asked: Asked) -> Iterator[None]:
        """One of the bounded number of clients that are held. Raises Refused."""
        if self._taken >= settings.MAX_FOLLOWERS:
            detail = f"{self._taken} clients follow jobs here, and no more are taken."
            hint = "Ask again later, or ask without waiting."
            answer = problem(
                503,
                "too_many_followers",
                detail,
                instance=asked.path,
                hint=hint,
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
            raise Refused(answer)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """The database blocks; its threads are few, and each keeps its connection.

        To open one costs more than all that is asked. One that failed is not used again; when it
        was the connection that failed (the server was restarted), a new one is asked: all calls
        only read.
        """

        def guarded() -> T:
            try:
                return call(*arguments)
            except DatabaseError:
                cut_off = not connection.is_usable()
                connection.close()
                if not cut_off:
                    raise
            return call(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    async def once(self, key: Hashable, call: Callable[..., T], *arguments: Any) -> T:
        """Those who ask the same at the same time share one call."""
        task = self._shared.get(key)
        if task is None:
            task = asyncio.ensure_future(self.in_thread(call, *arguments))
            self._shared[key] = task
            task.add_done_callback(lambda _: self._shared.pop(key, None))
        # One who goes away must not take the others' answer along.
        return await asyncio.shield(task)

    def close(self) -> None:
        self.watcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Conversation:
    """One request, from its parameters to the last byte of its answer."""

    def __init__(self, room: _Room, asked: Asked, told: _Told) -> None:
        self._room = room
        self._asked = asked
        self._told = told

    async def hold(self) -> None:
        """Raises Refused, and TimeoutError when the client takes nothing."""
        found = PATHS.match(self._asked.path)
        assert found is not None  # noqa: S101 - `is_followed` said so
        job_id, what = found["job_id"], found["what"]
        if what is None:
            await self._job(job_id)
        elif following.wants_stream(self._asked):
            await self._stream(job_id, what)
        elif what == "events":
            job = await self._in_thread(following.find_job, job_id)
            await self._send(await self._room.in_thread(following.events_answer, self._asked, job))
        else:
            await self._log(job_id)

    # -- the job ------------------------------------------------------------------------------
    async def _job(self, job_id: str) -> None:
        wait = following.wait_of(self._asked)
        if wait is None or self._asked.head_only:
            await self._send(await self._in_thread(following.job_answer, job_id))
            return
        with self._room.place(self._asked):
            seen = await self._change(job_id, seconds=wait.seconds)
        # Many who waited for the same change are told by one document.
        told = self._asked.headers.get("if-none-match")
        answer = await self._room.once(
            (job_id, seen, told, self._asked.path),
            lambda: following.job_answer(self._asked, job_id, headers={}),
        )
        status, headers, content = answer
        await self._send((status, {**headers, **wait.headers}, content))

    async def _change(self, job_id: str, *, seconds: float) -> Glimpse | None:
        """Until there is something to tell, or the time is over. What was seen last."""
        known, job = await self._in_thread(following.find_seen, job_id)
        tagged = "if-none-match" in self._asked.headers
        if known.ended or (tagged and not following.is_known(self._asked, known)):
            return known
        with self._room.watcher.watching(job.pk) as watch:
            await watch.until(
                lambda seen: (
                    seen.tells_another_state(known) or (tagged and seen.log_bytes > known.log_bytes)
                ),
                seconds=seconds,
            )
            return watch.latest

    # -- the log as text ----------------------------------------------------------------------
    async def _log(self, job_id: str) -> None:
        question = following.log_question(self._asked)
        job = await self._in_thread(following.find_job, job_id)
        text = await self._room.in_thread(following.log_text, self._asked, job, question)
        if not isinstance(text, LogText):
            await self._send(text)
            return
        with self._room.place(self._asked):
            await start(self._told, text.status, dict(text.headers))
            if not self._asked.head_only:
                await self._send_text(text)
            await self._told.piece(b"", last=True)

    async def _send_text(self, text: LogText) -> None:
        """Some chunks are read, sent, and forgotten before the next ones are read."""
        at = text.start
        while True:
            data, at = await self._room.in_thread(_next_pieces, text, at)
            if not data:
                return
            await self._told.piece(data)

    # -- streams ------------------------------------------------------------------------------
    async def _stream(self, job_id: str, what: str) -> None:
        job = await self._in_thread(following.find_job, job_id)
        position = await self._room.in_thread(following.position_of, self._asked, job, what)
        with self._room.place(self._asked):
            await start(self._told, 200, following.EVENT_STREAM_HEADERS)
            if not self._asked.head_only:
                await self._told.piece(following.RECONNECT)
                await self._follow(job.pk, position)
            await self._told.piece(b"", last=True)

    async def _follow(
        self, job_id: uuid.UUID, position: following.LogPosition | following.EventPosition
    ) -> None:
        """Until the job's end, or until the stream is old: the client comes back by itself."""
        clock = asyncio.get_running_loop().time
        oldest = clock() + settings.FOLLOW_MAX_SECONDS
        known: Glimpse | None = None
        with self._room.watcher.watching(job_id) as watch:
            while clock() < oldest:
                # With `known`: what was read before a change must not answer for after it.
                frames = await self._room.once(
                    (position, watch.latest, known), following.frames_after, position
                )
                if frames is None:
                    return
                await self._told.piece(frames.data)
                if frames.ended:
                    return
                position, known = frames.position, frames.glimpse
                if frames.caught_up and not await watch.until(
                    frames.glimpse_passed, seconds=KEEP_ALIVE_SECONDS
                ):
                    await self._told.piece(following.KEEP_ALIVE)

    # -- helpers ------------------------------------------------------------------------------
    async def _in_thread(self, call: Callable[[Asked, str], T], job_id: str) -> T:
        return await self._room.in_thread(call, self._asked, job_id)

    async def _send(self, answer: Answer) -> None:
        status, headers, content = answer
        safe = {"x-content-type-options": "nosniff", **headers}
        await send_answer(self._told, (status, safe, content), head_only=self._asked.head_only)


def _next_pieces(text: LogText, at: int) -> tuple[bytes, int]:
    """A few chunks of the log from byte `at` on, and where the next ones begin."""
    data = bytearray()
    for end, piece in itertools.islice(text.pieces(at), TEXT_PIECE_CHUNKS):
        data += piece
        at = end
    return bytes(data), at


_rooms: dict[asyncio.AbstractEventLoop, _Room] = {}


def _room() -> _Room:
    loop = asyncio.get_running_loop()
    if loop not in _rooms:
        _rooms[loop] = _Room()
    return _rooms[loop]
