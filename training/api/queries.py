"""Reads the query of a list of jobs into a `JobFilter`; names every parameter that is wrong."""

import difflib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TypeVar

from django.db.models import TextChoices
from django.http import QueryDict
from django.utils.dateparse import parse_datetime
from rest_framework.exceptions import APIException

from registry.rawhttp import cursors
from training.listing import JobFilter, Place
from training.services.submit import tag_term, word_term, words_of
from training.states import Phase, Reason, Status

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
TERMS_MAX = 10
TEXT_MAX_CHARACTERS = 500
SHOWN_CHARACTERS = 80
PARAMETERS = (
    *("status", "phase", "reason", "experiment", "model", "tag", "owner", "text"),
    *("created_after", "created_before", "limit", "cursor"),
)
Read = TypeVar("Read")


class ParametersRejected(APIException):
    """The query cannot be answered; `errors` names each parameter with a sentence and a hint."""

    status_code = HTTPStatus.BAD_REQUEST
    default_code = "invalid_parameters"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        told = " ".join(f"{error['field']}: {error['detail']}" for error in errors)
        super().__init__(f"The request is not valid. {told}")
        self.errors = errors


class WrongValue(Exception):
    """What is wrong with one value, and what to send instead."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True)
class JobQuery:
    """Which jobs, how many, and where to go on."""

    wanted: JobFilter
    limit: int
    after: Place | None


def read_query(parameters: QueryDict) -> JobQuery:
    """Raises ParametersRejected with all that is wrong."""
    reader = QueryReader(parameters)
    reader.refuse_unknown()
    job_id = _uuid_in(parameters.get("text", ""))
    wanted = JobFilter(
        job_id=job_id,
        status=reader.one("status", member_of(Status)) or "",
        phase=reader.one("phase", member_of(Phase)) or "",
        reason=reader.one("reason", member_of(Reason)) or "",
        experiment=reader.one("experiment", _text) or "",
        model=reader.one("model", _text) or "",
        owner=reader.one("owner", _text) or "",
        terms=_terms(reader, with_words=job_id is None),
        created_after=reader.one("created_after", _moment),
        created_before=reader.one("created_before", _moment),
    )
    limit = reader.one("limit", limit_of) or LIMIT_DEFAULT
    after = reader.one("cursor", place_of)
    reader.raise_if_any()
    return JobQuery(wanted=wanted, limit=limit, after=after)


def cursor_of(place: Place) -> str:
    """Opaque to clients: they send back what they were given."""
    return cursors.cursor_of(place.created_at, place.job_id.hex)


def place_of(cursor: str) -> Place:
    """Raises WrongValue for what `cursor_of` never made."""
    created_at, job_id = time_and_key_of(cursor)
    try:
        return Place(created_at, uuid.UUID(job_id))
    except ValueError:
        raise _not_a_cursor() from None


def time_and_key_of(cursor: str) -> tuple[datetime, str]:
    """For any list of this room. Raises WrongValue."""
    try:
        return cursors.place_of(cursor)
    except cursors.NotACursor:
        raise _not_a_cursor() from None


def _not_a_cursor() -> WrongValue:
    hint = "Send the `next` of an earlier answer as it was."
    return WrongValue("This is not a cursor of ours.", hint)


class QueryReader:
    """Reads parameter after parameter and remembers every problem, so that one answer has all."""

    def __init__(self, parameters: QueryDict, known: Sequence[str] = PARAMETERS) -> None:
        self._parameters = parameters
        self._known = known
        self._errors: list[dict[str, str]] = []

    def refuse_unknown(self) -> None:
        """A misspelt filter would answer with everything, as if it had been understood."""
        unknown = [name for name in self._parameters if name not in self._known]
        for name in unknown[:TERMS_MAX]:
            close = difflib.get_close_matches(name[:SHOWN_CHARACTERS], self._known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(self._known)}."
            self.wrong(name[:SHOWN_CHARACTERS], "There is no such parameter.", hint)

    def one(self, name: str, read: Callable[[str], Read]) -> Read | None:
        """The value of a parameter that comes once at most; None without it."""
        values = self._parameters.getlist(name)
        if not values:
            return None
        if len(values) > 1:
            self.wrong(name, "This parameter comes more than once.", "Send it once.")
            return None
        try:
            return read(values[0])
        except WrongValue as wrong:
            self.wrong(name, wrong.detail, wrong.hint)
            return None

    def many(self, name: str, read: Callable[[str], Read]) -> list[Read]:
        found: list[Read] = []
        for value in self._parameters.getlist(name):
            try:
                found.append(read(value))
            except WrongValue as wrong:
                self.wrong(name, wrong.detail, wrong.hint)
        return found

    def wrong(self, name: str, detail: str, hint: str) -> None:
        self._errors.append({"field": name, "detail": detail, "hint": hint})

    def raise_if_any(self) -> None:
        if self._errors:
            raise ParametersRejected(self._errors)


def _terms(reader: QueryReader, *, with_words: bool) -> tuple[str, ...]:
    """Of tags and words; all of them must be there."""
    tags = reader.many("tag", _tag)
    words = (reader.one("text", _words) or []) if with_words else []
    terms = tuple(dict.fromkeys([*tags, *words]))
    if len(terms) > TERMS_MAX:
        name = "text" if len(words) > len(tags) else "tag"
        reader.wrong(name, f"There are more than {TERMS_MAX} words and tags.", "Send fewer.")
    return terms


def member_of(choices: type[TextChoices]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices.values:
            known = ", ".join(choices.values)
            raise WrongValue(f"There is no {_shown(value)}.", f"Send one of: {known}.")
        return value

    return read


def _text(value: str) -> str:
    if not value or "\x00" in value or len(value) > TEXT_MAX_CHARACTERS:
        raise WrongValue("The value is empty or too long, or has a NUL.", "Send the whole name.")
    return value


def _words(value: str) -> list[str]:
    words = words_of(_text(value))
    if not words:
        raise WrongValue(
            f"There is no word in {_shown(value)}.", "Send whole words, or a job's id."
        )
    return [word_term(word) for word in words]


def _tag(value: str) -> str:
    name, equals, content = value.partition("=")
    if not name or not equals or "\x00" in value:
        raise WrongValue(f"{_shown(value)} is not NAME=VALUE.", "Send tag=team=growth.")
    return tag_term(name, content)


def _moment(value: str) -> datetime:
    """UTC where nothing else is said. A `+` that was sent unescaped comes as a space."""
    hint = "Send ISO 8601, such as 2025-10-23T10:00:00Z or 2025-10-23."
    try:
        day = len(value) == len("2025-10-23")
        moment = parse_datetime(f"{value}T00:00:00" if day else _with_plus(value))
        if moment is None:
            raise ValueError
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongValue(f"{_shown(value)} is not a time.", hint) from None


def _with_plus(value: str) -> str:
    """A space between day and time is one; any later one is the `+` of a zone."""
    start = len("2025-10-23T")
    return value[:start] + value[start:].replace(" ", "+")


def limit_of(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or not 1 <= int(value[:9]) <= LIMIT_MAX:
        hint = f"Send a whole number from 1 to {LIMIT_MAX}."
        raise WrongValue(f"{_shown(value)} is out of range.", hint)
    return int(value)


def _uuid_in(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def _shown(value: str) -> str:
    return repr(value[:SHOWN_CHARACTERS])
