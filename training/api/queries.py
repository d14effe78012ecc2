"""Reads the query of a list of jobs into a `JobFilter`; names every parameter that is wrong."""

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from django.http import QueryDict
from django.utils.dateparse import parse_datetime

from registry.list_queries import (
    LIMIT_DEFAULT,
    QueryReader,
    WrongValue,
    limit_of,
    member_of,
    shown,
    time_and_id_of,
    whole_name,
)
from registry.rawhttp import cursors
from training.listing import JobFilter, Place
from training.services.submit import tag_term, word_term, words_of
from training.states import Phase, Reason, Status

TERMS_MAX = 10
# As lists show it, or more of it.
START_OF_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}")
PARAMETERS = (
    *("status", "phase", "reason", "experiment", "model", "tag", "owner", "environment", "text"),
    *("created_after", "created_before", "limit", "cursor"),
)


@dataclass(frozen=True)
class JobQuery:
    """Which jobs, how many, and where to go on."""

    wanted: JobFilter
    limit: int
    after: Place | None


def read_query(parameters: QueryDict) -> JobQuery:
    """Raises ParametersRejected with all that is wrong."""
    reader = QueryReader(parameters, PARAMETERS)
    reader.refuse_unknown()
    job_id = _uuid_in(parameters.get("text", ""))
    wanted = JobFilter(
        job_id=job_id,
        id_start=_start_of_id_in(parameters.get("text", "")),
        status=reader.one("status", member_of(Status)) or "",
        phase=reader.one("phase", member_of(Phase)) or "",
        reason=reader.one("reason", member_of(Reason)) or "",
        experiment=reader.one("experiment", whole_name) or "",
        model=reader.one("model", whole_name) or "",
        owner=reader.one("owner", whole_name) or "",
        environment=reader.one("environment", whole_name) or "",
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
    return Place(*time_and_id_of(cursor))


def _terms(reader: QueryReader, *, with_words: bool) -> tuple[str, ...]:
    """Of tags and words; all of them must be there."""
    tags = reader.many("tag", _tag)
    words = (reader.one("text", _words) or []) if with_words else []
    terms = tuple(dict.fromkeys([*tags, *words]))
    if len(terms) > TERMS_MAX:
        name = "text" if len(words) > len(tags) else "tag"
        reader.wrong(name, f"There are more than {TERMS_MAX} words and tags.", "Send fewer.")
    return terms


def _words(value: str) -> list[str]:
    words = words_of(whole_name(value))
    if not words:
        raise WrongValue(f"There is no word in {shown(value)}.", "Send whole words, or a job's id.")
    return [word_term(word) for word in words]


def _tag(value: str) -> str:
    name, equals, content = value.partition("=")
    if not name or not equals or "\x00" in value:
        raise WrongValue(f"{shown(value)} is not NAME=VALUE.", "Send tag=team=growth.")
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
        raise WrongValue(f"{shown(value)} is not a time.", hint) from None


def _with_plus(value: str) -> str:
    """A space between day and time is one; any later one is the `+` of a zone."""
    start = len("2025-10-23T")
    return value[:start] + value[start:].replace(" ", "+")


def _uuid_in(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def _start_of_id_in(text: str) -> str:
    """Its digits without dashes; empty for anything else, and for a whole id."""
    sent = text.strip().lower()
    digits = sent.replace("-", "")
    return digits if START_OF_ID.fullmatch(sent) and len(digits) < 32 else ""
