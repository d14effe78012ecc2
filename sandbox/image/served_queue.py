"""The one queue of a model: what arrived while the last call ran goes into the next call together.

No window is waited through: a request that finds nobody at work is answered at once, but for a
fraction of the last call in which those whom that answered may come again (`Return`). A call that
is known to be short runs in the event loop's own thread, since a way to another thread and back
would cost more; any other runs in the model's thread, and the loop goes on listening. A model that
does not come back ends the process: a thread cannot be ended.
"""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

import orjson
from served_answers import attempt
from served_ends import Exit
from served_http import Exchange, Reply

MAX_WAITING = 256
# So long may a request wait for its turn before it is told to come again.
WAIT_SECONDS = 30.0
# Below the gateway's 60 s, so that whoever asked hears it from us.
CALL_SECONDS = 50.0
# What one call takes at most of what waits, in bytes of requests; rows are the model's business.
CALL_BYTES = 4 * 1024 * 1024
INLINE_SECONDS = 0.002
INLINE_BYTES = 64 * 1024
# A call after which the next ones are believed to be no shorter, forgotten by so much each time.
FORGETS = 0.9
# Of the last call's time, and at most, those whom it answered are waited for.
RETURN_SHARE, RETURN_SECONDS = 0.25, 0.01
# So many calls wait for nobody after one whose clients did not come again.
CALLS_WITHOUT = 16
RETRY_AFTER_SECONDS = "1"


class Desk(Protocol):
    """Who answers: as many replies as bodies, in their order; None for what another desk must.

    `queued` are milliseconds that each waited. Must not raise.
    """

    def answer(
        self, bodies: Sequence[bytes], queued: Sequence[float]
    ) -> Sequence[Reply | None]: ...


class Return:
    """Whether those who were just answered are worth waiting for.

    Who asks again and again has the next request ready at once. Were nobody waited for, those who
    are answered together and those who waited meanwhile would take turns, and each call, which
    often takes as long for all as for half of them, would be for half. A client that is alone is
    never waited for, nor are any whose kind did not come.
    """

    def __init__(self) -> None:
        self._likely = 0
        self._answered = 0
        self._until = 0.0
        self._calls_without = 0

    def answered(self, count: int, *, waiting: int, spent: float, now: float) -> None:
        """A call has ended, after `spent` seconds, and so many wait already."""
        self._answered, self._likely = count, 0
        if self._calls_without:
            self._calls_without -= 1
        elif spent > INLINE_SECONDS:
            self._likely = count + waiting
            self._until = now + min(spent * RETURN_SHARE, RETURN_SECONDS)

    def wait_until(self, waiting: int, *, now: float) -> float | None:
        """The moment up to which more are worth waiting for; None where they are not."""
        return self._until if waiting < self._likely and now < self._until else None

    def over(self, waiting: int) -> None:
        """The moment has come, and only so many wait."""
        if self._likely - waiting > self._answered / 2:
            self._calls_without = CALLS_WITHOUT
        self._likely = 0


class Queue:
    """Requests of one model, answered in order of arrival."""

    def __init__(
        self,
        desk: Desk,
        thread: Executor,
        *,
        otherwise: Callable[[Exchange], None],
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._desk = desk
        self._otherwise = otherwise
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Exchange] = deque()
        self._thread = thread
        self._busy: list[Exchange] = []
        self._flushing = False
        # Unknown is slow: the first call goes to the thread.
        self._expected = INLINE_SECONDS * 2
        self._spent = 0.0
        self._return = Return()
        self._timer: asyncio.TimerHandle | None = None
        self._call_seconds = call_seconds
        self._watch = _Watch(call_seconds, self._tell_hung)

    def put(self, exchange: Exchange) -> None:
        """Takes a request, or refuses it at once."""
        if len(self._waiting) >= MAX_WAITING:
            detail = f"{MAX_WAITING} predictions of this model are waiting already."
            exchange.answer(refusal(503, "busy", detail))
            return
        self._waiting.append(exchange)
        if not self._busy:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Not now: what comes in the same moment goes along."""
        if self._flushing:
            return
        until = self._return.wait_until(len(self._waiting), now=self._loop.time())
        if until is None:
            self._flushing = True
            self._loop.call_soon(self._flush)
        elif self._timer is None:
            self._timer = self._loop.call_at(until, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._return.over(len(self._waiting))
        self._flush_soon()

    def _flush(self) -> None:
        self._flushing = False
        if self._busy:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        turn = self._next_turn()
        if not turn:
            return
        self._busy = turn
        size = sum(len(exchange.body) for exchange in turn)
        if self._expected < INLINE_SECONDS and size < INLINE_BYTES:
            self._finish(self._call(turn))
            return
        work = self._loop.run_in_executor(self._thread, self._call, turn)
        work.add_done_callback(lambda done: self._finish(done.result()))

    def _next_turn(self) -> list[Exchange]:
        """Everybody who still waits, up to a bound in bytes; at least one."""
        turn: list[Exchange] = []
        size, now = 0, time.monotonic()
        while self._waiting:
            exchange = self._waiting[0]
            size += len(exchange.body)
            if turn and size > CALL_BYTES:
                break
            self._waiting.popleft()
            if exchange.gone:
                continue
            if now - exchange.arrived > WAIT_SECONDS:
                detail = f"The model was busy for {WAIT_SECONDS:.0f} s."
                exchange.answer(refusal(503, "busy", detail))
                continue
            turn.append(exchange)
        return turn

    def _call(self, turn: list[Exchange]) -> Sequence[Reply | None]:
        """In either thread."""
        began = time.perf_counter()
        with self._watch:
            now = time.monotonic()
            queued = [(now - exchange.arrived) * 1000 for exchange in turn]
            bodies = [exchange.body for exchange in turn]
            replies, error = attempt(lambda: self._desk.answer(bodies, queued))
        self._spent = spent = time.perf_counter() - began
        self._expected = max(spent, self._expected * FORGETS)
        if replies is not None and len(replies) == len(turn):
            return replies
        # Ours, or memory's: whoever waits must hear something, and the queue goes on.
        print(f"The call failed: {error!r}", file=sys.stderr, flush=True)
        return [refusal(500, "model_failed", "The model's answer was lost.") for _ in turn]

    def _finish(self, replies: Sequence[Reply | None]) -> None:
        turn, self._busy = self._busy, []
        for exchange, reply in zip(turn, replies, strict=True):
            if reply is None:
                self._otherwise(exchange)
            else:
                exchange.answer(reply)
        waiting, now = len(self._waiting), self._loop.time()
        self._return.answered(len(turn), waiting=waiting, spent=self._spent, now=now)
        if self._waiting:
            self._flush_soon()

    def _tell_hung(self) -> None:
        """In the watch's thread; past the loop, where that itself runs the call."""
        detail = f"The model did not come back within {self._call_seconds:.0f} s."
        print(f"model_server: {detail}", file=sys.stderr, flush=True)
        told = threading.Event()

        hung = refusal(504, "model_timeout", detail)
        again = refusal(503, "busy", "The model's server starts again.")

        def tell() -> None:
            for exchange in self._busy:
                exchange.answer(hung)
            for exchange in self._waiting:
                exchange.answer(again)
            self._loop.call_later(0.2, told.set)

        self._loop.call_soon_threadsafe(tell)
        if not told.wait(1.0):
            for exchange in list(self._busy):
                exchange.answer_past_loop(hung)
            for exchange in list(self._waiting):
                exchange.answer_past_loop(again)
        os._exit(Exit.HUNG)


class _Watch:
    """Calls `hung` once a block has lasted too long."""

    def __init__(self, seconds: float, hung: Callable[[], None]) -> None:
        self._seconds = seconds
        self._hung = hung
        self._since = 0.0
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = 0.0

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            since = self._since
            if since and time.monotonic() - since > self._seconds:
                self._hung()


def refusal(status: int, code: str, detail: str, field: str = "") -> Reply:
    """An answer that is none, in the words of the protocol."""
    errors = [{"field": field, "detail": detail}] if field else []
    body = orjson.dumps({"code": code, "detail": detail, "errors": errors})
    headers = {"retry-after": RETRY_AFTER_SECONDS} if status == 503 else {}
    return Reply(status, body, headers)
