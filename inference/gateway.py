"""The way of a prediction: from a request's body to the model's server and back.

The fast path holds its routes in memory and calls neither database nor registry. Nothing here loads
a model, and what a model's server says is checked before it is passed on.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asgiref.sync import async_to_sync

from inference import metrics
from inference.answers import Predicted, count, finished, lost, read_prediction
from inference.entities import Wanted
from inference.held import Share
from inference.joining import Features, Joined
from inference.question import read_question
from inference.refusals import Refused, held_too_much, server_gone
from inference.request_log import request_log
from inference.routes import Key, Routes
from inference.threads import Threads
from inference.upstream import RouteGone, Upstream
from inference.versions import Versions
from inference.wire import AnswerLost
from registry.doorbell import GATEWAY_BELL, Listener
from registry.rawhttp.problems import Answer

PATH = "/mlops/inference"
# A request that ends a server twice would end it a third time.
TRIES = 2
LISTEN_AGAIN_SECONDS = 1.0
END_SECONDS = 2.0
# JSON takes so many times its length when it is parsed.
PARSED_TIMES = 8


class Gateway:
    """Routes, connections and what is known of versions; one for each event loop."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.versions = Versions(self.threads)
        self.routes = Routes(self.threads, self.versions)
        self.features = Features()
        self.log = request_log()
        self.upstream = Upstream()
        self._listener: Listener | None = None

    async def answer(self, body: bytes, *, request_id: str = "") -> Answer:
        """Status, headers and body for one request. Never raises what a user could cause."""
        try:
            question = read_question(body)
            predicted = await self.predict(
                question.model_name,
                question.selector,
                body,
                request_id=request_id,
                wanted=question.wanted,
            )
        except Refused as refused:
            return refused.problem.answer(instance=PATH, request_id=request_id)
        return finished(predicted, request_id)

    async def predict(
        self,
        name: str,
        selector: str,
        body: bytes,
        *,
        request_id: str = "",
        wanted: Wanted | None = None,
    ) -> Predicted:
        """`body` is passed on as it is, unless features are wanted. Raises Refused."""
        key, began = ("", ""), time.perf_counter()
        try:
            with Share() as share:
                number = await self.versions.number(name, selector)
                key = (name, self.routes.settled(name, selector, number))
                joined = None
                if wanted is not None:
                    joined = await self._join(key, wanted, len(body), share)
                    body = joined.body
                predicted = await self._ask_with_patience(
                    key, body, share, began, request_id, joined
                )
        except Refused as refused:
            self.note_failure(key, refused, body, request_id, began)
            raise
        if self.log is not None:
            self.log.answered(predicted, body, request_id)
        return predicted

    async def close(self) -> None:
        """Ends connections and what still runs in the background."""
        self.stop_listening()
        await self.versions.close()
        await self.routes.close()
        await self.features.close()
        await self.threads.close()
        await self.upstream.close()
        if self.log is not None:
            await asyncio.to_thread(self.log.close)

    # -- the bell -------------------------------------------------------------------------------
    def listen(self) -> None:
        """What changes elsewhere is heard of at once; without it, within a few seconds."""
        loop = asyncio.get_running_loop()
        try:
            listener = Listener(GATEWAY_BELL)
        except OSError:
            # Whoever listened last may not be quite gone.
            loop.call_later(LISTEN_AGAIN_SECONDS, self.listen)
            return
        self._listener = listener
        loop.add_reader(listener.fileno(), self._hear, listener)

    def stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _hear(self, listener: Listener) -> None:
        listener.wait(0)
        self.versions.doubt()
        self.routes.doubt()

    # -- one request ----------------------------------------------------------------------------
    async def _join(self, key: Key, wanted: Wanted, size: int, share: Share) -> Joined:
        """What is wanted was parsed, and is many times as large as it came. Raises Refused."""
        if not share.take(PARSED_TIMES * size):
            raise held_too_much()
        joined = await self.features.join(wanted, await self.routes.model(key))
        if not share.take(len(joined.body)):
            raise held_too_much()
        metrics.series(*key).looked_up(joined.milliseconds)
        return joined

    async def _ask_with_patience(
        self,
        key: Key,
        body: bytes,
        share: Share,
        began: float,
        request_id: str,
        joined: Joined | None,
    ) -> Predicted:
        for _ in range(TRIES):
            fleet = await self.routes.fleet(key)
            if not fleet.lanes:
                continue
            with self.routes.place(key, fleet) as route:
                try:
                    heard = await self.upstream.ask(route, body, reserve=share.take)
                except RouteGone:
                    await self.routes.drop(key, route)
                    continue
                except AnswerLost as error:
                    raise lost(key, error, request_id) from error
            predicted = read_prediction(
                key, heard, began=began, request_id=request_id, joined=joined
            )
            count(fleet.series, predicted)
            return predicted
        raise server_gone(*key)

    def note_failure(
        self, key: Key, refused: Refused, body: bytes, request_id: str, began: float
    ) -> None:
        if not key[0] or refused.problem.code == "model_version_not_found":
            return
        metrics.series(*key).failed(refused.problem.code)
        if self.log is not None:
            took_ms = (time.perf_counter() - began) * 1000
            self.log.refused(key, refused.problem, body, request_id, took_ms)


# -- the process's own gateway --------------------------------------------------------------------
_gateways: dict[asyncio.AbstractEventLoop, Gateway] = {}
# Whose gateway the threads of this process ask through; none in a process that serves nobody.
_served_by: list[asyncio.AbstractEventLoop] = []


def current() -> Gateway:
    """The gateway of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _gateways.get(loop)
    if found is None:
        found = _gateways[loop] = Gateway()
    return found


def serve() -> None:
    """The running event loop is the one that serves: its gateway hears the bell, and answers the
    process's threads too."""
    current().listen()
    _served_by[:] = [asyncio.get_running_loop()]


async def close() -> None:
    """Ends the running loop's gateway; the web process calls it when it ends."""
    loop = asyncio.get_running_loop()
    if loop in _served_by:
        _served_by.clear()
    gateway = _gateways.pop(loop, None)
    if gateway is not None:
        await gateway.close()


@asynccontextmanager
async def short_lived() -> AsyncIterator[Gateway]:
    """For a caller whose event loop ends with the answer, such as a Django view in a thread."""
    try:
        yield current()
    finally:
        await close()


def answer_in_thread(body: bytes, *, request_id: str, seconds: float) -> Answer:
    """As `Gateway.answer`, for a Django view in a thread of the web process: through the gateway
    that serves, with what it knows and has open; else through one of its own.

    Raises TimeoutError after `seconds`; what the model was asked is given up then.
    """

    async def ask() -> Answer:
        async with asyncio.timeout(seconds):
            return await current().answer(body, request_id=request_id)

    async def ask_alone() -> Answer:
        async with short_lived():
            return await ask()

    serving = next(iter(_served_by), None)
    if serving is None:
        answer: Answer = async_to_sync(ask_alone)()
        return answer
    # A loop that ends meanwhile answers nobody.
    return asyncio.run_coroutine_threadsafe(ask(), serving).result(seconds + END_SECONDS)
