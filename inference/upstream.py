"""The kept connections to model servers. What a server says is a stranger's: it is bounded here."""

import socket
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
from aiohttp import AddrInfoType
from django.conf import settings
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# Below the server's own: the side that asks must be the first to drop an idle connection.
KEEP_ALIVE_SECONDS = 30
PREDICTION_SECONDS = 60
# A container that ended leaves an address where nobody says no: silence must end soon. A busy model
# is not silent, since the kernel of its container acknowledges for it.
SILENCE_SECONDS = 2
UNREACHABLE = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,
    ConnectionError,
)


class RouteGone(Exception):
    """No server answered at the address, or that of another model did."""


class AnswerTooLarge(Exception):
    """The server sent more than an answer may hold."""


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
    content: bytes
    queue_ms: float = 0.0
    model_ms: float = 0.0
    batch_requests: int = 0
    lane: str = ""


class Upstream:
    """One pool of connections; of one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, route: Route, body: bytes) -> Heard:
        """Raises RouteGone, TimeoutError, AnswerTooLarge."""
        try:
            async with self._pool().post(
                _address(route), data=body, headers=_headers(route)
            ) as response:
                content = await _read(response)
                if response.status == 401:
                    raise RouteGone
                return _heard(response, content)
        except aiohttp.ConnectionTimeoutError as error:
            raise RouteGone from error
        except UNREACHABLE as error:
            raise RouteGone from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, socket_factory=_socket
                ),
                timeout=aiohttp.ClientTimeout(
                    total=PREDICTION_SECONDS, sock_connect=SILENCE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            )
        return self._session


@lru_cache(maxsize=1000)
def _address(route: Route) -> URL:
    return URL(f"http://{route.address}/predict")


@lru_cache(maxsize=1000)
def _headers(route: Route) -> CIMultiDictProxy[str]:
    """Made once: nobody changes them."""
    told = {"authorization": f"Bearer {route.token}", "content-type": "application/json"}
    return CIMultiDictProxy(CIMultiDict(told))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """At most as much as an answer may hold. Raises AnswerTooLarge."""
    most = settings.INFERENCE_ANSWER_MAX_BYTES
    if (response.content_length or 0) > most:
        raise AnswerTooLarge
    if response.content_length is not None:
        return await response.read()
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > most:
            raise AnswerTooLarge
    return bytes(content)


def _heard(response: aiohttp.ClientResponse, content: bytes) -> Heard:
    headers = response.headers
    return Heard(
        status=response.status,
        content=content,
        queue_ms=_number(headers.get("x-mlops-queue-ms")),
        model_ms=_number(headers.get("x-mlops-model-ms")),
        batch_requests=int(_number(headers.get("x-mlops-batch-requests"))),
        lane="compact" if headers.get("x-mlops-lane") == "compact" else "original",
    )


def _number(text: str | None) -> float:
    """A stranger's number: anything that is none, negative or endless is 0."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 <= value < 1e9 else 0.0


def _socket(address: AddrInfoType) -> socket.socket:
    """A connection that ends when what was sent stays unacknowledged."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
    return made
