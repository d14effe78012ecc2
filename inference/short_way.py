"""The short way of a prediction: all that it needs is at hand, so no task is made for it.

It takes the usual request, to a version whose server is known and has a kept connection. What it
cannot answer goes the long way, through `Gateway.answer`; each step is the same on both.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from inference.answers import count, finished, lost, read_prediction
from inference.door import failure_answer
from inference.gateway import PATH, Gateway
from inference.held import Share
from inference.question import read_question
from inference.refusals import Refused
from inference.routes import Fleet, Key, Lane
from inference.upstream import Heard, RouteGone
from inference.wire import AnswerLost, Asked
from registry.rawhttp.problems import Answer

log = logging.getLogger(__name__)

# The answer, and what holds its memory until it is sent; None: only the long way has one.
Told = Callable[[Answer | None, Share], None]


class ShortWay:
    """One prediction on its way; `told` is called once, later."""

    def __init__(self, gateway: Gateway, body: bytes, request_id: str, told: Told) -> None:
        self._gateway = gateway
        self._body = body
        self._request_id = request_id
        self._told: Told | None = told
        self._began = time.perf_counter()
        self._share = Share()
        self._key: Key = ("", "")
        self._place: tuple[Fleet, Lane] | None = None
        self._asked: Asked | None = None

    def begin(self) -> bool:
        """Whether it is on its way; else nothing of it is left, and `told` is never called."""
        begun = False
        with _Failure() as failure:
            begun = self._begun()
        if failure.error is not None:
            log.error("gateway.short_way_failed", exc_info=failure.error)
        if not begun:
            # The long way comes to the same error, if it is one, and tells the client.
            self._told = None
            self._leave()
        return begun

    def give_up(self) -> None:
        """The client is gone."""
        if self._told is None:
            return
        self._told = None
        if self._asked is not None:
            self._asked.give_up()
        self._leave()

    def _begun(self) -> bool:
        if not self._share.take(len(self._body)):
            return False
        fleet = self._known_fleet()
        if fleet is None:
            return False
        try:
            lane = self._gateway.routes.take(self._key, fleet)
        except Refused as refused:
            # A crowd is turned away here: on the long way it would cost those who were let in more.
            asyncio.get_running_loop().call_soon(self._refuse, refused)
            return True
        self._place = (fleet, lane)
        self._asked = self._gateway.upstream.ask_kept(
            lane.route, self._body, reserve=self._share.take, told=self._hear
        )
        return self._asked is not None

    def _known_fleet(self) -> Fleet | None:
        """Who answers what is asked, where nothing has to be looked up for it."""
        gateway = self._gateway
        try:
            question = read_question(self._body)
            name = question.model_name
            number = gateway.versions.known_number(name, question.selector)
            if question.wanted is not None or number is None:
                return None
            self._key = (name, gateway.routes.settled(name, question.selector, number))
            return gateway.routes.known_fleet(self._key)
        except Refused:
            # The long way comes to the same refusal, and says it.
            return None

    def _leave(self) -> None:
        if self._place is not None:
            self._place[1].under_way -= 1
        self._share.close()

    def _refuse(self, refused: Refused) -> None:
        told, self._told = self._told, None
        if told is None:
            return
        self._leave()
        told(self._refusal(refused), self._share)

    def _refusal(self, refused: Refused) -> Answer:
        self._gateway.note_failure(self._key, refused, self._body, self._request_id, self._began)
        return failure_answer(refused, path=PATH, request_id=self._request_id)

    def _hear(self, outcome: Heard | Exception) -> None:
        told, self._told = self._told, None
        if told is None or self._place is None:
            return
        if isinstance(outcome, RouteGone):
            self._leave()
            told(None, self._share)
            return
        fleet, lane = self._place
        lane.under_way -= 1
        told(self._answer(outcome, fleet, lane), self._share)

    def _answer(self, outcome: Heard | Exception, fleet: Fleet, lane: Lane) -> Answer:
        answer = None
        with _Failure() as failure:
            answer = self._predicted(outcome, fleet, lane)
        if answer is not None:
            return answer
        error = failure.error or RuntimeError("no answer")
        if isinstance(error, Refused):
            return self._refusal(error)
        return failure_answer(error, path=PATH, request_id=self._request_id)

    def _predicted(self, outcome: Heard | Exception, fleet: Fleet, lane: Lane) -> Answer:
        """Raises Refused, and whatever nobody foresaw."""
        if isinstance(outcome, AnswerLost):
            raise lost(self._key, outcome, self._request_id) from outcome
        if isinstance(outcome, Exception):
            raise outcome
        self._gateway.routes.look_after(self._key, fleet, lane)
        predicted = read_prediction(
            self._key, outcome, began=self._began, request_id=self._request_id
        )
        count(fleet.series, predicted)
        if self._gateway.log is not None:
            self._gateway.log.answered(predicted, self._body, self._request_id)
        return finished(predicted, self._request_id)


class _Failure:
    """Keeps what its block raised: whatever that is, the client must hear something."""

    error: Exception | None = None

    def __enter__(self) -> "_Failure":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None
