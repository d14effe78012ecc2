"""Reads the query of a list of any room, parameter by parameter; names every one that is wrong."""

import difflib
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import TypeVar

from django.db.models import TextChoices
from django.http import QueryDict
from rest_framework.exceptions import APIException

from registry.rawhttp import cursors

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
UNKNOWN_MAX = 10
TEXT_MAX_CHARACTERS = 500
SHOWN_CHARACTERS = 80
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


class QueryReader:
    """Reads parameter after parameter and remembers every problem, so that one answer has all."""

    def __init__(self, parameters: QueryDict, known: Sequence[str]) -> None:
        self._parameters = parameters
        self._known = known
        self._errors: list[dict[str, str]] = []

    def refuse_unknown(self) -> None:
        """A misspelt filter would answer with everything, as if it had been understood."""
        unknown = [name for name in self._parameters if name not in self._known]
        for name in unknown[:UNKNOWN_MAX]:
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


# -- values: each raises WrongValue ---------------------------------------------------------------
def member_of(choices: type[TextChoices]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices.values:
            known = ", ".join(choices.values)
            raise WrongValue(f"There is no {shown(value)}.", f"Send one of: {known}.")
        return value

    return read


def whole_name(value: str) -> str:
    if not value or "\x00" in value or len(value) > TEXT_MAX_CHARACTERS:
        raise WrongValue("The value is empty or too long, or has a NUL.", "Send the whole name.")
    return value


def limit_of(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or not 1 <= int(value[:9]) <= LIMIT_MAX:
        hint = f"Send a whole number from 1 to {LIMIT_MAX}."
        raise WrongValue(f"{shown(value)} is out of range.", hint)
    return int(value)


def time_and_key_of(cursor: str) -> tuple[datetime, str]:
    """Where a list goes on."""
    try:
        return cursors.place_of(cursor)
    except cursors.NotACursor:
        raise _not_a_cursor() from None


def time_and_id_of(cursor: str) -> tuple[datetime, uuid.UUID]:
    """Where a list goes on whose keys are ids."""
    moment, key = time_and_key_of(cursor)
    try:
        return moment, uuid.UUID(key)
    except ValueError:
        raise _not_a_cursor() from None


def shown(value: str) -> str:
    """As a sentence quotes it."""
    return repr(value[:SHOWN_CHARACTERS])


def _not_a_cursor() -> WrongValue:
    hint = "Send the `next` of an earlier answer as it was."
    return WrongValue("This is not a cursor of ours.", hint)
