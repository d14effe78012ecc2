"""What is asked of a model's server, and what it said; its numbers are a stranger's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings

from inference.wire import Asked, Bounds, NobodyThere, Question, Reply, Wire

PREDICTION_SECONDS = 60
LANES = {b"compact": "compact", b"original": "original"}
RETRY_MOST_SECONDS = 60


class RouteGone(Exception):
    """No server answered at the address, or that of another model did."""


@dataclass(frozen=True)
class Route:
    """Where one server of a version answers, and what to say there."""

    server_id: int
    address: str
    token: str
    source: str


@dataclass(frozen=True)
class Heard:
    """What a server answered; times in milliseconds, 0 where it did not say."""

    status: int
    content: bytes | bytearray
    queue_ms: float = 0.0
    model_ms: float = 0.0
    batch_requests: int = 0
    lane: str = ""
    retry_after_seconds: int = 0


Told = Callable[[Heard | Exception], None]


class Upstream:
    """Of one event loop."""

    def __init__(self) -> None:
        self._wire = Wire()

    async def ask(self, route: Route, body: bytes, *, reserve: Callable[[int], bool]) -> Heard:
        """`reserve`: whether an answer of so many bytes may be held.

        Raises RouteGone and AnswerLost.
        """
        question = Question(route.address, _head(route), body)
        try:
            reply = await self._wire.ask(question, _bounds(reserve))
        except NobodyThere as error:
            raise RouteGone from error
        if reply.status == 401:
            raise RouteGone
        return _heard(reply)

    def ask_kept(
        self, route: Route, body: bytes, *, reserve: Callable[[int], bool], told: Told
    ) -> Asked | None:
        """As `ask`, without a task; None where no connection is kept.

        `told` is called once, later, with what was heard or what `ask` raises; RouteGone is that of
        one connection there: the server may be well, and is to be asked by `ask`.
        """

        def hear(outcome: Reply | Exception) -> None:
            if isinstance(outcome, NobodyThere):
                self._wire.lose(route.address)
                told(RouteGone())
            elif isinstance(outcome, Exception):
                told(outcome)
            else:
                told(RouteGone() if outcome.status == 401 else _heard(outcome))

        question = Question(route.address, _head(route), body)
        return self._wire.ask_kept(question, _bounds(reserve), hear)

    async def close(self) -> None:
        await self._wire.close()


def _bounds(reserve: Callable[[int], bool]) -> Bounds:
    return Bounds(PREDICTION_SECONDS, settings.INFERENCE_ANSWER_MAX_BYTES, reserve)


@lru_cache(maxsize=1000)
def _head(route: Route) -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nhost: {route.address}\r\n"
        f"authorization: Bearer {route.token}\r\ncontent-type: application/json\r\n"
    ).encode("latin-1")


def _heard(reply: Reply) -> Heard:
    headers = reply.headers
    return Heard(
        status=reply.status,
        content=reply.content,
        queue_ms=_number(headers.get(b"x-mlops-queue-ms")),
        model_ms=_number(headers.get(b"x-mlops-model-ms")),
        batch_requests=int(_number(headers.get(b"x-mlops-batch-requests"))),
        lane=LANES.get(headers.get(b"x-mlops-lane", b""), ""),
        retry_after_seconds=_seconds(headers.get(b"retry-after")),
    )


def _number(text: bytes | None) -> float:
    """A stranger's number: anything that is none, negative or endless is 0."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 <= value < 1e9 else 0.0


def _seconds(text: bytes | None) -> int:
    """How long a server asks to be left alone; it may not ask for more than a minute."""
    return min(RETRY_MOST_SECONDS, int(_number(text)))
