"""Asks the process that reads features, and starts it when somebody first wants some.

That process may be slow, stuck, or killed; who asks hears of it within a bound, and nothing here
waits in the event loop. It knows no Feast.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from registry.online.frames import (
    LENGTH,
    Feature,
    FeatureQuestion,
    NotNow,
    NotReadable,
    framed,
)

log = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-W", "ignore", "-m", "registry.online.process")
# Feast's import alone takes 5 to 13 seconds.
START_SECONDS = 60.0
# One that did not come up is not tried again at once.
START_AGAIN_SECONDS = 5.0
UNDER_WAY_MOST = 64
# A store that is locked or restarting is silent for a while; starting anew costs more than that.
STUCK_SECONDS = 30.0
# A question that ends the process twice would end it a third time.
TRIES = 2
# What it has no use for; a store's own variables it must have.
WITHHELD = ("MLOPS_SECRET_KEY", "MLOPS_MLFLOW_PASSWORD", "DATABASE_URL")


class FeaturesAway(Exception):
    """The store, or the process that reads it, does not answer: a sentence for the user."""


class FeaturesLate(Exception):
    """No answer came within the time."""


class FeaturesBusy(Exception):
    """So many questions are under way that no more are taken."""


class _Ended(Exception):
    """The process is gone, or nothing that it says can be believed any more."""


class FeatureClient:
    """Of one event loop."""

    def __init__(self, repo: Path, *, seconds: float, answer_bytes: int) -> None:
        self._repo = repo
        self._seconds = seconds
        self._answer_bytes = answer_bytes
        self._process: _Process | None = None
        self._starting: asyncio.Task[_Process] | None = None
        self._failed_at = float("-inf")
        self._under_way = 0

    async def ask(self, question: FeatureQuestion) -> list[Feature]:
        """Raises NotReadable, NotNow, FeaturesAway, FeaturesLate, FeaturesBusy."""
        if self._under_way >= UNDER_WAY_MOST:
            raise FeaturesBusy
        self._under_way += 1
        try:
            return _read(await self._answered(question))
        finally:
            self._under_way -= 1

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._process is not None:
            await self._process.end()

    async def _answered(self, question: FeatureQuestion) -> dict[str, Any]:
        for _ in range(TRIES):
            process = await self._ready()
            try:
                async with asyncio.timeout(self._seconds):
                    return await process.ask(question)
            except _Ended:
                continue
            except TimeoutError as error:
                if process.silent_seconds >= STUCK_SECONDS:
                    await process.end()
                raise FeaturesLate from error
        raise FeaturesAway("The process that reads features ended while it did so.")

    async def _ready(self) -> "_Process":
        """All who wait for its start share one. Raises FeaturesAway, NotNow."""
        if self._process is not None and self._process.alive:
            return self._process
        if self._starting is None:
            if time.monotonic() - self._failed_at < START_AGAIN_SECONDS:
                raise FeaturesAway("The process that reads features cannot be started.")
            self._starting = asyncio.ensure_future(self._start())
            self._starting.add_done_callback(self._started)
        try:
            async with asyncio.timeout(self._seconds + START_SECONDS):
                return await asyncio.shield(self._starting)
        except TimeoutError as error:
            raise NotNow("The process that reads features is still starting.") from error

    def _started(self, done: "asyncio.Task[_Process]") -> None:
        self._starting = None
        if done.cancelled():
            return
        if done.exception() is None:
            self._process = done.result()
            return
        log.error("features.not_started %s", done.exception())
        self._failed_at = time.monotonic()

    async def _start(self) -> "_Process":
        process = await _Process.started(self._repo, answer_bytes=self._answer_bytes)
        try:
            async with asyncio.timeout(START_SECONDS):
                await process.ready
        except (TimeoutError, _Ended) as error:
            await process.end()
            raise FeaturesAway("The process that reads features cannot be started.") from error
        except asyncio.CancelledError:
            await process.end()
            raise
        return process


class _Process:
    """One running process, and who waits for which of its answers."""

    def __init__(
        self,
        child: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answer_bytes: int,
    ) -> None:
        self._silent_since: float | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._child, self._reader, self._writer = child, reader, writer
        self._answer_bytes = answer_bytes
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0
        self._reaping: asyncio.Future[int] | None = None
        self._listening = asyncio.ensure_future(self._listen())
        self._listening.add_done_callback(self._over)

    @classmethod
    async def started(cls, repo: Path, *, answer_bytes: int) -> "_Process":
        ours, theirs = socket.socketpair()
        with theirs:
            child = await asyncio.to_thread(_spawn, repo, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(child, reader, writer, answer_bytes=answer_bytes)

    @property
    def alive(self) -> bool:
        return not self._listening.done()

    @property
    def silent_seconds(self) -> float:
        """How long nobody was answered who asked; 0 when somebody was since."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    async def ask(self, question: FeatureQuestion) -> dict[str, Any]:
        """Raises _Ended."""
        if not self.alive:
            raise _Ended
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        self._count += 1
        number = self._count
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(framed({"id": number, **question.document()}))
            await self._writer.drain()
            return await answer
        except ConnectionError as error:
            raise _Ended from error
        finally:
            self._asked.pop(number, None)

    async def end(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        if self._reaping is not None:
            await self._reaping

    async def _listen(self) -> None:
        try:
            while True:
                self._hear(await self._message())
        except (OSError, asyncio.IncompleteReadError, _Ended) as error:
            log.warning("features.process_ended %s", type(error).__name__)

    def _over(self, done: "asyncio.Task[None]") -> None:
        """It is not heard any more, for whatever reason."""
        self._let_go()
        self._writer.close()
        self._child.kill()
        self._reaping = asyncio.ensure_future(asyncio.to_thread(self._child.wait))

    async def _message(self) -> dict[str, Any]:
        (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if size > self._answer_bytes:
            raise _Ended
        message: dict[str, Any] = orjson.loads(await self._reader.readexactly(size))
        return message

    def _hear(self, message: dict[str, Any]) -> None:
        self._silent_since = None
        if "ready" in message:
            self.ready.set_result(None)
            return
        waiting = self._asked.get(message["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _let_go(self) -> None:
        everybody: list[asyncio.Future[Any]] = [self.ready, *self._asked.values()]
        for waiting in everybody:
            if not waiting.done():
                waiting.set_exception(_Ended())
                # Who waited may have gone.
                waiting.exception()


def _spawn(repo: Path, line: socket.socket) -> "subprocess.Popen[bytes]":
    variables = {name: value for name, value in os.environ.items() if name not in WITHHELD}
    return subprocess.Popen(
        [*COMMAND, str(repo)],
        stdin=line.fileno(),
        stdout=subprocess.DEVNULL,
        cwd=CHECKOUT,
        env=variables,
        close_fds=True,
    )


def _read(message: dict[str, Any]) -> list[Feature]:
    if "wrong" in message:
        raise NotReadable.read(message["wrong"])
    if "not_now" in message:
        raise NotNow(message["not_now"])
    if "failed" in message:
        raise FeaturesAway(f"The feature store does not answer ({message['failed']}).")
    return [Feature.read(each) for each in message["features"]]
