"""Why a model server does not start: a reason for programs, a sentence that a user may read."""

from rest_framework.exceptions import APIException


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
