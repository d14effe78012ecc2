"""Which requests are answered past ASGI: usual predictions, with nothing to wait for but the model.

uvicorn makes a scope, an event and a task of each request, and passes it through two functions for
each message; that is most of what the web process spends on a small prediction. What this does not
take goes on as ever: `mlops_site.connections` has both ways.
"""

from collections.abc import Callable, Sequence

from django.conf import settings

from inference import gateway
from inference.door import Head, new_id, note_left, noted, send_long
from inference.held import COUNTED_BYTES, Share
from inference.short_way import ShortWay
from mlops_site.door import is_let_in
from registry.rawhttp.asgi import Receive, Scope, Send
from registry.rawhttp.problems import Answer

URL = gateway.PATH.encode()
MOST_BYTES = 64 * 1024
MOST_DIGITS = 5
# What says that a request is more than its head and its body.
UNUSUAL = (b"expect", b"upgrade", b"transfer-encoding")
PLAIN_CODINGS = (None, b"", b"identity")


class Outcome:
    """An answer that is ready; as an ASGI application it sends itself as slowly as is read."""

    def __init__(self, answer: Answer, share: Share, headers: dict[bytes, bytes], head: Head):
        self._answer = answer
        self._share = share
        self._headers = headers
        self._head = head

    @property
    def is_long(self) -> bool:
        return len(self._answer[2]) > COUNTED_BYTES

    def whole(self) -> Answer:
        """To be written in one piece."""
        self._share.close()
        return noted(self._answer, self._headers, self._head)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_long(send, self._answer, self._share, self._headers, self._head)


Told = Callable[[Outcome | None], None]


class Predictions:
    """The short way of `POST /mlops/inference`."""

    def takes(
        self, url: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> dict[bytes, bytes] | None:
        """The headers of a POST whose body is worth gathering; None for one of the long way."""
        if url != URL:
            return None
        found = dict(headers)
        if not _is_short(found.get(b"content-length", b"")):
            return None
        if found.get(b"content-encoding") not in PLAIN_CODINGS or not is_let_in(found):
            return None
        return None if any(name in found for name in UNUSUAL) else found

    def begin(
        self, headers: dict[bytes, bytes], body: bytes, told: Told
    ) -> Callable[[], None] | None:
        """What to call when the client goes; None for a request of the long way.

        `told` is called once, later; with None where only the long way has an answer.
        """
        head = Head(gateway.PATH, new_id(headers))

        def hear(answer: Answer | None, share: Share) -> None:
            told(None if answer is None else Outcome(answer, share, headers, head))

        way = ShortWay(gateway.current(), body, head.request_id, hear)
        if not way.begin():
            return None

        def leave() -> None:
            note_left(head.request_id)
            way.give_up()

        return leave


def _is_short(length: bytes) -> bool:
    """A longer one is read, or refused, on the long way."""
    if not length.isdigit() or len(length) > MOST_DIGITS:
        return False
    return 0 < int(length) <= min(MOST_BYTES, settings.INFERENCE_MAX_BYTES)
