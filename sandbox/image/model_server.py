"""The first process of a model container: answers predictions of the one model at `--model`.

It listens from its first moment, so that whoever waits sees what it is doing, loads the model in
the same single thread that later predicts, and ends when the model cannot be loaded: the last line
it prints says why. The user's packages win over ours, which stand at the end of `sys.path`.

    GET  /ready    200 what the model expects | 503 {"phase"} while it loads
    POST /predict  200 labels and probabilities | 4xx, 5xx {"code", "detail", "errors"}
"""

import argparse
import asyncio
import hmac
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], "/platform", sys.path[0]]

import orjson  # noqa: E402 (found through the line above)
import uvicorn  # noqa: E402

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_WAITING = 32
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5
MESSAGE_CHARACTERS = 300
LOAD_FAILED = 3
FAILURE_PREFIX = "model_server: "
TOKEN_VARIABLE = "MLOPS_SERVER_TOKEN"  # noqa: S105

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = tuple[int, Message]


class ModelServer:
    """An ASGI application around one model."""

    def __init__(self, folder: Path, *, token: str) -> None:
        self._folder = folder
        self._token = token
        self._phase = "starting"
        self._model: Any = None
        self._waiting = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def load(self) -> "Future[None]":
        """Begins to load; the future holds whatever the model's code raised."""
        return self._thread.submit(self._load)

    def _load(self) -> None:
        # Here and not above: it imports pandas, and the server answers before that is done.
        from served_model import load  # noqa: PLC0415

        self._model = load(self._folder, self._report)

    def _report(self, phase: str) -> None:
        self._phase = phase

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, document = await self._answer(scope, receive)
        body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS, default=str)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        if not self._knows_us(scope):
            return _problem(401, "wrong_token", "This server belongs to another caller.")
        if (scope["method"], scope["path"]) == ("GET", "/ready"):
            return self._ready()
        if (scope["method"], scope["path"]) == ("POST", "/predict"):
            return await self._predict(receive)
        return _problem(404, "not_found", "There is GET /ready and POST /predict.")

    def _knows_us(self, scope: Message) -> bool:
        """An address may be given to another container: the token shows which model was meant."""
        wanted = f"Bearer {self._token}".encode()
        given = dict(scope["headers"]).get(b"authorization", b"")
        return not self._token or hmac.compare_digest(wanted, given)

    def _ready(self) -> Answer:
        if self._model is None:
            return 503, {"phase": self._phase}
        return 200, self._model.description()

    async def _predict(self, receive: Receive) -> Answer:
        if self._model is None:
            return _problem(503, "not_ready", f"The model is not loaded yet ({self._phase}).")
        if self._waiting >= MAX_WAITING:
            return _problem(503, "busy", "Too many predictions of this model are waiting.")
        self._waiting += 1
        try:
            return await self._predict_in_turn(receive)
        finally:
            self._waiting -= 1

    async def _predict_in_turn(self, receive: Receive) -> Answer:
        body = await _body(receive)
        if body is None:
            return _problem(413, "body_too_large", f"At most {MAX_BODY_BYTES} bytes are read.")
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _problem(400, "invalid_json", f"The body is not JSON: {error}.")
        if not isinstance(document, dict) or "inputs" not in document:
            return _problem(400, "invalid_request", "The body must be an object with `inputs`.")
        wanted = document.get("return_probabilities") is True
        work = asyncio.wrap_future(
            self._thread.submit(self._model.predict, document["inputs"], probabilities=wanted)
        )
        # The model's code is a stranger's: what it raised is looked at, whatever it is.
        await asyncio.wait([work])
        raised = work.exception()
        return _failure(raised) if raised else (200, vars(work.result()))


async def _body(receive: Receive) -> bytes | None:
    """None when it is too large."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _failure(error: BaseException) -> Answer:
    """What a failed prediction looks like outside: one sentence, no traceback, no path."""
    if type(error).__name__ == "InputsRefused":
        return 400, vars(error)
    traceback.print_exception(error)
    told = _told(error)
    if type(error).__name__ == "MlflowException":
        # MLflow's own, for inputs that break the signature; it is no ValueError.
        sentence = f"The model refused the inputs: {told}"
        return _problem(400, "model_refused_inputs", sentence, "inputs")
    return _problem(500, "model_failed", f"The model failed: {type(error).__name__}: {told}")


def _told(error: BaseException) -> str:
    """As `served_model.first_line`, which may be what could not be imported."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else "no message"
    return re.sub(r"(?:/[\w.@+-]+)+/", "", text)[:MESSAGE_CHARACTERS]


def _problem(status: int, code: str, detail: str, field: str = "") -> Answer:
    errors = [{"field": field, "detail": detail}] if field else []
    return status, {"code": code, "detail": detail, "errors": errors}


async def serve(folder: Path, *, host: str, port: int, token: str) -> int:
    """Runs until told to end. The exit code: 0, or LOAD_FAILED."""
    application = ModelServer(folder, token=token)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host=host,
            port=port,
            http="httptools",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    loading = application.load()

    def end_if_failed(done: "Future[None]") -> None:
        server.should_exit = server.should_exit or done.exception() is not None

    loading.add_done_callback(end_if_failed)
    await server.serve()
    error = loading.exception() if loading.done() else None
    if error is None:
        return 0
    traceback.print_exception(error)
    print(f"{FAILURE_PREFIX}{type(error).__name__}: {_told(error)}", file=sys.stderr)
    return LOAD_FAILED


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (the container's own address)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    token = os.environ.pop(TOKEN_VARIABLE, "")
    import uvloop  # noqa: PLC0415 (only the process needs it, not who imports this file)

    code = uvloop.run(serve(arguments.model, host=arguments.host, port=arguments.port, token=token))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a model that is still loading in its thread would be waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
