"""Why a model server or a batch does not start: a reason for programs, a sentence for users."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rest_framework.exceptions import APIException

from inference.states import MEANINGS, Reason
from sandbox.engine import EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import EnvironmentFailed

log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The server cannot be started: a reason for programs, a sentence for people."""

    def __init__(self, reason: str, sentence: str, *, log_tail: str = "") -> None:
        super().__init__(sentence)
        self.reason = str(reason)
        self.sentence = sentence
        self.log_tail = log_tail


def unreachable(error: APIException) -> StartFailed:
    """A registry's answer: what is not there stays away, what does not answer may come back."""
    gone = error.status_code in (400, 404)
    reason = "model_not_found" if gone else "registry_unavailable"
    return StartFailed(reason, str(error.detail))


def ours(reason: Reason) -> StartFailed:
    """One that the reason's own sentence says all of."""
    return StartFailed(reason, MEANINGS[reason].sentence)


@contextmanager
def as_start_failures(what: str) -> Iterator[None]:
    """Every error of the other rooms becomes a StartFailed; `what` is for the log."""
    try:
        yield
    except SandboxMismatch as error:
        log.exception("start.sandbox_mismatch %s", what)
        raise ours(Reason.SANDBOX_REFUSED) from error
    except (EngineError, EngineUnavailable) as error:
        log.exception("start.engine_failed %s", what)
        raise ours(Reason.ENGINE_FAILED) from error
    except EnvironmentFailed as error:
        raise StartFailed(Reason.PLATFORM_INCOMPLETE, error.detail) from error
