"""The first process of a model container: answers predictions of the one model at `--model`.

It listens from its first moment, so that whoever waits sees what it is doing. With a compact form
beside the model it is ready in half a second, and opens the original when a request needs it;
without, it opens the original first and tries a compact form afterwards. It ends when the model
cannot be loaded or does not come back; the last line it prints says why. The user's packages win
over ours, which stand at the end of `sys.path`. What is said over HTTP: `docs/MODEL_SERVER.md`.
"""

import argparse
import asyncio
import gc
import hmac
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

COLLECTED = gc.get_threshold()
if __name__ == "__main__":
    # Until the model is open: what is imported is no garbage, and looking through it takes time.
    gc.set_threshold(100_000, 50, 1_000)
    sys.path[:] = [*sys.path[1:], "/platform", sys.path[0]]

import orjson  # noqa: E402 (found through the line above, as all that follow)
from served_answers import attempt  # noqa: E402
from served_desk import Batching, Desk, first_words  # noqa: E402
from served_ends import Exit  # noqa: E402
from served_failure import failed_load  # noqa: E402
from served_http import MAX_BODY_BYTES, Connection, Exchange, Reply  # noqa: E402
from served_inputs import MAX_ROWS  # noqa: E402
from served_lane import (  # noqa: E402
    CompactDesk,
    Lane,
    end_group,
    make_compact,
    read_compact,
    read_refusal,
)
from served_queue import CALL_SECONDS, MAX_WAITING, Queue, refusal  # noqa: E402
from served_queue import Desk as AnyDesk  # noqa: E402

TOKEN_VARIABLE = "MLOPS_SERVER_TOKEN"  # noqa: S105
# "off", or the largest difference from the original that the operator allows; none: not a bit.
LANE_VARIABLE = "MLOPS_FAST_LANE"
Report = Callable[[str], None]


def tame_collector() -> None:
    """What is there stays: it is no longer looked through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED)


class Original:
    """The model itself, opened at its first use or when told to; only in the model's thread."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._folder = folder
        self._report = report
        self._desk: Desk | None = None
        self._description: dict[str, Any] = {}
        self._error: BaseException | None = None

    @property
    def loaded(self) -> bool:
        return self._desk is not None

    @property
    def batching(self) -> Batching:
        if self._desk is None:
            return Batching(on=False, reason="The model is not loaded.", most_rows=0)
        return self._desk.batching

    def description(self) -> dict[str, Any]:
        """Of a model that was loaded."""
        return self._description

    def load(self) -> None:
        """Raises whatever the model's code raises."""
        # Here and not above: these import pandas, and the server answers before that is done.
        from served_open import opened  # noqa: PLC0415

        found = opened(self._folder, self._report)
        description = {**found.model.description(), "example": found.example}
        # Here, where a failure ends the server: what describes a model may be the model's own code.
        orjson.dumps(description, option=orjson.OPT_NON_STR_KEYS, default=str)
        self._desk, self._description = Desk(found.model, found.batching), description
        tame_collector()

    def open(self) -> None:
        """As `load`, once; what was raised is told to whoever asks."""
        if self._desk is None and self._error is None:
            _, self._error = attempt(self.load)
            if self._error is not None:
                traceback.print_exception(self._error)

    def answer(self, bodies: Sequence[bytes], queued: Sequence[float]) -> Sequence[Reply | None]:
        if self._desk is not None:
            return self._desk.answer(bodies, queued)
        detail = "The model cannot be loaded"
        detail += f": {first_words(self._error)}" if self._error else "."
        return [refusal(500, "model_failed", detail) for _ in bodies]


class ModelServer:
    """Routes, lanes and what is known of the model; lives in the event loop's thread."""

    def __init__(self, folder: Path, *, token: str, lane: str, call_seconds: float) -> None:
        self._folder = folder
        self._authorization = f"Bearer {token}".encode() if token else b""
        self._wanted_lane = lane
        self._loop = asyncio.get_running_loop()
        self._phase = "starting"
        self._description: dict[str, Any] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._original = Original(folder, self._report)
        self._call_seconds = call_seconds
        self._slow = self._queue(self._original, self._thread, otherwise=_nobody)
        self._fast: Queue | None = None
        self._lane = Lane("none", "No compact form was tried yet.")
        self._maker = 0

    def _report(self, phase: str) -> None:
        self._phase = phase

    def begin(self) -> "Future[None]":
        """Gets ready; the future holds whatever the model's code raised."""
        kept = None if self._wanted_lane == "off" else read_compact(self._folder)
        if kept is not None:
            model, self._lane = kept
            self._description = dict(model.about.description)
            self._fast = self._fast_queue(CompactDesk(model))
            done: Future[None] = Future()
            done.set_result(None)
            return done
        loading = self._thread.submit(self._original.load)
        loading.add_done_callback(
            lambda done: done.exception() or self._loop.call_soon_threadsafe(self._loaded)
        )
        return loading

    def _fast_queue(self, desk: CompactDesk) -> Queue:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compact")
        gc.freeze()
        gc.set_threshold(*COLLECTED)
        return self._queue(desk, thread, otherwise=self._ask_original)

    def _queue(
        self,
        desk: AnyDesk,
        thread: ThreadPoolExecutor,
        *,
        otherwise: Callable[[Exchange], None],
    ) -> Queue:
        return Queue(desk, thread, otherwise=otherwise, call_seconds=self._call_seconds)

    def _loaded(self) -> None:
        self._description = self._original.description()
        if self._wanted_lane == "off":
            self._lane = Lane("none", "The operator switched the fast lane off.")
            return
        known = read_refusal(self._folder)
        if known is not None:
            self._lane = known
            return
        self._lane = Lane("trying", "The compact form is compared with the original.")
        threading.Thread(target=self._make_lane, name="maker", daemon=True).start()

    def _make_lane(self) -> None:
        lane, error = attempt(
            lambda: make_compact(
                self._folder, tolerance=self._wanted_lane or "0", started=self._remember_maker
            )
        )
        self._maker = 0
        if error is not None or lane is None:
            reason = f"Its trial failed: {first_words(error)}" if error else "Its trial failed."
            lane = Lane("refused", reason)
        self._loop.call_soon_threadsafe(self._take_lane, lane)

    def _remember_maker(self, pid: int) -> None:
        self._maker = pid

    def _take_lane(self, lane: Lane) -> None:
        if lane.content:
            # The same bytes that the next server reads, by the same way.
            from served_compact import CompactModel  # noqa: PLC0415 (loaded by read_compact)

            self._fast = self._fast_queue(CompactDesk(CompactModel(lane.content)))
        self._lane = lane
        print(f"fast lane {lane.state}: {lane.reason}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._maker:
            end_group(self._maker)

    # -- requests
    def handle(self, exchange: Exchange) -> None:
        if not self._knows_us(exchange):
            exchange.answer(refusal(401, "wrong_token", "This server belongs to another caller."))
        elif (exchange.method, exchange.path) == ("POST", "/predict"):
            self._predict(exchange)
        elif (exchange.method, exchange.path) == ("GET", "/ready"):
            exchange.answer(self._ready())
        elif (exchange.method, exchange.path) == ("GET", "/compact"):
            exchange.answer(self._compact())
        else:
            detail = "There is GET /ready, POST /predict and GET /compact."
            exchange.answer(refusal(404, "not_found", detail))

    def _knows_us(self, exchange: Exchange) -> bool:
        """An address may be given to another container: the token shows which model was meant."""
        given = exchange.headers.get(b"authorization", b"")
        return not self._authorization or hmac.compare_digest(self._authorization, given)

    def _predict(self, exchange: Exchange) -> None:
        if self._description is None:
            detail = f"The model is not loaded yet ({self._phase})."
            exchange.answer(refusal(503, "not_ready", detail))
            return
        (self._fast or self._slow).put(exchange)

    def _ask_original(self, exchange: Exchange) -> None:
        """Opened in its own thread first: that may take longer than a call may."""
        if not self._original.loaded:
            self._thread.submit(self._original.open)
        self._slow.put(exchange)

    def _ready(self) -> Reply:
        if self._description is None:
            return Reply(503, orjson.dumps({"phase": self._phase}))
        document = {
            **self._description,
            "batching": vars(self._original.batching),
            "lane": self._lane.document(),
            "original_loaded": self._original.loaded,
            "limits": {"rows": MAX_ROWS, "body_bytes": MAX_BODY_BYTES, "waiting": MAX_WAITING},
        }
        return Reply(200, orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS, default=str))

    def _compact(self) -> Reply:
        if not self._lane.content:
            return refusal(404, "no_compact_form", self._lane.reason)
        return Reply(200, self._lane.content, content_type="application/octet-stream")


def _nobody(exchange: Exchange) -> None:
    exchange.answer(refusal(500, "model_failed", "Nobody answers this request."))


async def serve(
    folder: Path, *, host: str, port: int, token: str, lane: str, call_seconds: float = CALL_SECONDS
) -> int:
    """Runs until told to end. The exit code."""
    loop = asyncio.get_running_loop()
    server = ModelServer(folder, token=token, lane=lane, call_seconds=call_seconds)
    listening = await loop.create_server(
        lambda: Connection(server.handle), host, port, backlog=1024, reuse_address=True
    )
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    loading = server.begin()

    def end_if_failed(done: "Future[None]") -> None:
        if done.exception() is not None:
            loop.call_soon_threadsafe(over.set)

    loading.add_done_callback(end_if_failed)
    await over.wait()
    listening.close()
    server.end()
    error = loading.exception() if loading.done() else None
    return Exit.DONE if error is None else failed_load(error)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (the container's own address)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--call-seconds", type=float, default=CALL_SECONDS)
    arguments = parser.parse_args()
    token = os.environ.pop(TOKEN_VARIABLE, "")
    lane = os.environ.pop(LANE_VARIABLE, "")
    import uvloop  # noqa: PLC0415 (only the process needs it, not who imports this file)

    code = uvloop.run(
        serve(
            arguments.model,
            host=arguments.host,
            port=arguments.port,
            token=token,
            lane=lane,
            call_seconds=arguments.call_seconds,
        )
    )
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a model that is still loading in its thread would be waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
