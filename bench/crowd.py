"""Many callers in one light process: what they wait for is the platform, not each other.

Threads of Python wait for the interpreter's lock more than for an answer; these are callbacks of
one event loop, each with a kept connection, and ask again as soon as they were answered.
"""

import asyncio
import json
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

# Longer than any answer takes that is one.
END_SECONDS = 90


@dataclass
class Heard:
    """What callers of the steady model were told, which answers 2x + 1 to x."""

    # Milliseconds, of the answers that are predictions.
    times: list[float] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    # When each of these came, by the monotonic clock.
    moments: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.times)

    def note(self, value: int, status: int, said: Mapping[str, object], took: float) -> None:
        """What one was told who asked for `value`, after `took` milliseconds."""
        if status != 200:
            self.said[f"{status} {said.get('code', '')}"] += 1
            return
        self.said["200"] += 1
        self.times.append(took)
        self.moments.append(time.monotonic())
        self.wrong += not _is_right(value, said)


@dataclass(frozen=True)
class Crowd:
    """`count` callers of the steady model.

    `patient`: of those who are refused, whether each waits as long as it was told to.
    """

    url: str
    model: str
    count: int
    patient: bool

    def for_seconds(self, seconds: float) -> Heard:
        """Asks so long. Raises ConnectionError when a connection ends."""
        return uvloop.run(self._for_seconds(seconds))

    async def _for_seconds(self, seconds: float) -> Heard:
        loop, heard = asyncio.get_running_loop(), Heard()
        until = loop.time() + seconds
        place = urlsplit(self.url)
        made = [
            await loop.create_connection(
                partial(_Caller, self, heard, until), str(place.hostname), int(place.port or 80)
            )
            for _ in range(self.count)
        ]
        ended = asyncio.gather(*(caller.ended for _, caller in made))
        await asyncio.wait_for(ended, seconds + END_SECONDS)
        return heard


class _Caller(asyncio.Protocol):
    """One connection; asks, hears, and asks again until the time is over."""

    def __init__(self, crowd: Crowd, heard: Heard, until: float) -> None:
        self._crowd = crowd
        self._host = urlsplit(crowd.url).netloc.encode()
        self._heard = heard
        self._until = until
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._content = b""
        self._wait_seconds = 0.0

    # -- what asyncio calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError("The platform closed the connection."))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # -- what httptools calls
    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._wait_seconds = float(value)

    def on_body(self, part: bytes) -> None:
        self._content += part

    def on_message_complete(self) -> None:
        took = (time.perf_counter() - self._asked) * 1000
        status, said = self._parser.get_status_code(), orjson.loads(self._content)
        self._heard.note(self._value, status, said, took)
        if self._loop.time() >= self._until:
            self.ended.set_result(None)
            self._transport.close()
        elif self._wait_seconds and self._crowd.patient:
            self._loop.call_later(self._wait_seconds, self._ask)
        else:
            self._loop.call_soon(self._ask)

    # -- what we do
    def _ask(self) -> None:
        self._content, self._wait_seconds = b"", 0.0
        self._value = secrets.randbelow(1000)
        body = json.dumps({"model_name": self._crowd.model, "inputs": [[self._value]]}).encode()
        head = b"POST /mlops/inference HTTP/1.1\r\nhost: %b\r\n" % self._host
        head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._asked = time.perf_counter()
        self._transport.write(head + body)


def _is_right(value: int, said: Mapping[str, object]) -> bool:
    found = said.get("predictions")
    return isinstance(found, list) and len(found) == 1 and abs(found[0] - (2 * value + 1)) < 1e-6
