"""Why a request ends without a prediction; each dialect says it in its own form."""

from dataclasses import dataclass

from rest_framework.exceptions import APIException

from inference.states import Reason, meaning
from registry.rawhttp import problems
from registry.rawhttp.problems import Answer

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class Problem:
    """What a client is told; `errors` name single places."""

    status: int
    code: str
    detail: str
    errors: tuple[dict[str, str], ...] = ()
    hint: str = ""
    retry_after_seconds: int | None = None

    def answer(self, *, instance: str, request_id: str = "") -> Answer:
        """As `application/problem+json`."""
        return problems.problem(
            self.status,
            self.code,
            self.detail,
            instance=instance,
            errors=self.errors,
            hint=self.hint,
            retry_after_seconds=self.retry_after_seconds,
            request_id=request_id,
        )


class Refused(Exception):
    """The request ends here."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refusal(
    status: int,
    code: str,
    detail: str,
    *,
    errors: tuple[dict[str, str], ...] = (),
    hint: str = "",
    retry_after_seconds: int | None = None,
) -> Refused:
    return Refused(Problem(status, code, detail, errors, hint, retry_after_seconds))


def invalid(errors: list[dict[str, str]]) -> Refused:
    """Every problem of a request in one answer."""
    told = " ".join(f"{error['field']}: {error['detail']}" for error in errors)
    detail = f"The request is not valid. {told}"
    return refusal(400, "invalid", detail, errors=tuple(errors))


def field_error(field: str, detail: str) -> dict[str, str]:
    return {"field": field, "detail": detail}


def version_not_found(name: str, version: str) -> Refused:
    """The contract's own sentence."""
    hint = ""
    if not version.isdecimal():
        hint = f"{version} is no number, so it is an alias: GET /mlops/models/{name}/aliases."
    return refusal(
        404, "model_version_not_found", f"Model {name} version {version} not found", hint=hint
    )


def not_loadable(name: str, version: str, *, reason: str, error: str) -> Refused:
    known = meaning(reason)
    code = reason if known.passing else Reason.MODEL_NOT_LOADABLE.value
    return refusal(
        503,
        code,
        f"Model {name} version {version} cannot answer: {error}",
        hint=known.hint.format(model_name=name, version=version),
        retry_after_seconds=known.retry_seconds,
    )


def still_starting(name: str, version: str, *, phase: str) -> Refused:
    return refusal(
        503,
        "model_starting",
        f"Model {name} version {version} is still being loaded"
        + (f" ({phase})." if phase else "."),
        hint="Send the request again in a few seconds.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def overloaded(name: str, version: str, *, waiting: int) -> Refused:
    return refusal(
        503,
        "overloaded",
        f"{waiting} requests to model {name} version {version} are under way; no more are taken.",
        hint="Send the request again in a second, or raise the model's `max_servers`.",
        retry_after_seconds=1,
    )


def held_too_much() -> Refused:
    return refusal(
        503,
        "overloaded",
        "The requests that are under way are as large as the platform can hold.",
        hint="Send the request again in a second.",
        retry_after_seconds=1,
    )


def server_gone(name: str, version: str) -> Refused:
    return refusal(
        503,
        "model_server_gone",
        f"The server of model {name} version {version} ended while it was answering.",
        hint="Send fewer rows at a time; the model may need more memory than its server has.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def from_api(error: APIException) -> Refused:
    """What a view would answer, in the same words."""
    codes = error.get_codes()
    return refusal(
        error.status_code,
        codes if isinstance(codes, str) else error.default_code,
        str(error.detail),
        errors=tuple(getattr(error, "errors", ())),
        hint=getattr(error, "hint", ""),
        retry_after_seconds=getattr(error, "wait", None),
    )
