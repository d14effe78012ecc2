"""Answers bodies with the model itself: reads them, puts together what may go together, replies.

One bad request never fails its neighbours: a call of several that goes wrong is made again for
each alone. What the model's code raises, whatever it is, becomes one refusal in one sentence.
"""

import random
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from served_answers import AnswerRefused, Result, attempt, encoded
from served_http import MAX_BODY_BYTES, Reply
from served_inputs import InputsRefused
from served_queue import refusal

if TYPE_CHECKING:
    # A server of a compact form alone imports neither: they need pandas.
    from served_model import Prepared, ServedModel

MESSAGE_CHARACTERS = 300
# The first call of several, and then every so many-th, is made one by one too, and compared; but
# for the first one only some of it, since all would hold up everybody else for as many calls.
CHECK_EVERY = 512
CHECKED = 4


@dataclass(frozen=True)
class Batching:
    """Whether requests share calls, why, and up to how many rows."""

    on: bool
    reason: str
    most_rows: int


class Desk:
    """One loaded model and how far its requests may share a call."""

    lane = "original"

    def __init__(self, model: "ServedModel", batching: Batching) -> None:
        self.model = model
        self.batching = batching
        self._calls_together = 0

    def answer(self, bodies: Sequence[bytes], queued: Sequence[float]) -> list[Reply]:
        """A reply for each body."""
        read = [attempt(partial(self._read, body)) for body in bodies]
        replies = [refusal_of(error) if error else None for _, error in read]
        places = [place for place, (_, error) in enumerate(read) if error is None]
        for group in self._groups(places, [found for found, _ in read]):
            requests = [read[place][0] for place in group]
            rows = sum(request.rows for request in requests if request)
            for place, outcome in zip(group, self._outcomes(requests), strict=True):
                replies[place] = self._reply(
                    outcome, queued=queued[place], requests=len(group), rows=rows
                )
        return [reply or refusal(500, "model_failed", "No answer.") for reply in replies]

    def _read(self, body: bytes) -> "Prepared":
        inputs, probabilities = question_in(body)
        return self.model.prepare(inputs, probabilities=probabilities)

    def _groups(self, places: Sequence[int], read: Sequence[Any]) -> list[list[int]]:
        """Requests of one key, as many as may share a call; in order of arrival otherwise."""
        groups: list[list[int]] = []
        open_groups: dict[Any, tuple[list[int], int]] = {}
        for place in places:
            key, rows = read[place].key, read[place].rows
            group, held = open_groups.get(key, ([], 0))
            alone = key is None or not self.batching.on
            if alone or not group or held + rows > self.batching.most_rows:
                group, held = [], 0
                groups.append(group)
            group.append(place)
            open_groups[key] = (group, held + rows)
        return groups

    def _outcomes(self, requests: "Sequence[Prepared]") -> list[Result | BaseException]:
        if len(requests) > 1:
            together, error = attempt(lambda: self.model.answer_together(requests))
            self._calls_together += 1
            if error is None and together is not None:
                due = self._calls_together % CHECK_EVERY == 1
                return self._compared(requests, together) if due else list(together)
        return [self._alone(request) for request in requests]

    def _compared(
        self, requests: "Sequence[Prepared]", together: Sequence[Result]
    ) -> list[Result | BaseException]:
        """Each alone too; a difference ends the sharing of calls, this one included."""
        places = range(len(requests))
        is_first = self._calls_together == 1
        for place in places if is_first else random.sample(places, min(CHECKED, len(places))):
            one = self._alone(requests[place])
            if isinstance(one, Result) and not same(one, together[place]):
                reason = "Rows answered together differed from the same rows answered alone."
                self.batching = Batching(on=False, reason=reason, most_rows=0)
                return [self._alone(request) for request in requests]
        return list(together)

    def _alone(self, request: "Prepared") -> Result | BaseException:
        result, error = attempt(lambda: self.model.answer(request))
        return result if error is None and result is not None else error or AnswerRefused("", "")

    def _reply(
        self, outcome: Result | BaseException, *, queued: float, requests: int, rows: int
    ) -> Reply:
        if isinstance(outcome, BaseException):
            return refusal_of(outcome, elsewhere=self.model.elsewhere)
        body, error = attempt(lambda: encoded(outcome))
        if error is not None or body is None:
            return refusal_of(error or AnswerRefused("answer_unusable", "No answer."))
        return answer_of(body, outcome, queued=queued, requests=requests, rows=rows, lane=self.lane)


def question_in(body: bytes) -> tuple[Any, bool]:
    """`inputs`, and whether probabilities are wanted. Raises InputsRefused, JSONDecodeError."""
    if len(body) > MAX_BODY_BYTES:
        raise InputsRefused("body_too_large", f"At most {MAX_BODY_BYTES} bytes are read.")
    document = orjson.loads(body)
    if not isinstance(document, dict) or "inputs" not in document:
        raise InputsRefused("invalid_request", "The body must be an object with `inputs`.")
    return document["inputs"], document.get("return_probabilities") is True


def answer_of(
    body: bytes, result: Result, *, queued: float, requests: int, rows: int, lane: str
) -> Reply:
    """A prediction, with what it took in its headers."""
    headers = {
        "x-mlops-lane": lane,
        "x-mlops-queue-ms": f"{queued:.3f}",
        "x-mlops-model-ms": f"{result.milliseconds:.3f}",
        "x-mlops-batch-requests": str(requests),
        "x-mlops-batch-rows": str(rows),
    }
    return Reply(200, body, headers)


def same(one: Result, other: Result) -> bool:
    """Whether both say the same to the last bit, in the words of JSON."""
    first, second = (
        attempt(partial(encoded, Result(each.labels, each.chances, None, 0.0)))[0]
        for each in (one, other)
    )
    return first is not None and first == second


def refusal_of(error: BaseException, *, elsewhere: str = "") -> Reply:
    """What a failed prediction looks like outside: one sentence, no traceback, no path.

    `elsewhere`: with which other versions the model was made, which may be why.
    """
    if isinstance(error, InputsRefused):
        document = {"code": error.code, "detail": error.detail, "errors": error.errors}
        return Reply(413 if error.code == "body_too_large" else 400, orjson.dumps(document))
    if isinstance(error, orjson.JSONDecodeError):
        return refusal(400, "invalid_json", f"The body is not JSON: {error}.")
    if isinstance(error, AnswerRefused):
        return refusal(500, error.code, error.detail)
    traceback.print_exception(error, file=sys.stderr)
    told = first_words(error)
    if type(error).__name__ == "MlflowException":
        # MLflow's own, for inputs that break the signature; it is no ValueError.
        sentence = f"The model refused the inputs: {told}"
        return refusal(400, "model_refused_inputs", sentence, "inputs")
    aside = f" ({elsewhere})" if elsewhere else ""
    return refusal(500, "model_failed", f"The model failed: {type(error).__name__}: {told}{aside}")


def first_words(error: BaseException) -> str:
    """The first line of a message, without paths; a hostile exception may have none to give."""
    text, raised = attempt(lambda: str(error))
    lines = (text or "").strip().splitlines()
    if raised is not None or not lines:
        return "no message"
    shown = lines[0].encode(errors="replace").decode()
    return re.sub(r"(?:/[\w.@+-]+)+/", "", shown)[:MESSAGE_CHARACTERS]
