"""Writes the demo's jobs: the newest as they are told, the many before them as copies of those.

Copies are made inside the database, each a whole number of days older: a million rows that went
through Python one by one would take many times as long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import connection, models, transaction
from django.utils import timezone

from mlops_site.demo.jobs import stories
from mlops_site.demo.telling import Story
from registry.models import AuditEntry
from training.models import Attempt, Job, JobEvent, JobTerm, LogChunk, UsageSeries
from training.states import TERMINAL

TOLD_MAX = 20_000
AT_ONCE = 1000
DAYS_MAX = 7.0
JOBS_A_DAY = 70
CHUNK_BYTES = 64 * 1024
# What a copy does not take over.
NOT_COPIED = {"rerun_of_id": "NULL", "environment_lock": "''", "model_version": "''"}
# How each database says it: the key of a copy, and a moment so many days before another.
KEY = {
    "sqlite": "'{copy:04x}' || substr({column}, 5)",
    "postgresql": "('{copy:04x}' || substr({column}::text, 5))::{kind}",
}
EARLIER = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', {column}, '-{days} days')",
    "postgresql": "{column} - interval '{days} days'",
}


@dataclass(frozen=True)
class Copied:
    """A table of which each row belongs to the job whose id is in `key`, as `id` or as `told`."""

    model: type[models.Model]
    key: str
    of: str = "id"

    @property
    def kind(self) -> str:
        return "uuid" if self.of == "id" else "varchar"


COPIED = (
    Copied(Job, "id"),
    Copied(Attempt, "job_id"),
    Copied(JobEvent, "job_id"),
    Copied(JobTerm, "job_id"),
    Copied(AuditEntry, "key", of="told"),
)


@dataclass(frozen=True)
class Amount:
    """How many jobs are told one by one, over how many days; and how many there are in the end."""

    told: int
    days: float
    whole: int

    @classmethod
    def of(cls, jobs: int) -> "Amount":
        told = min(jobs, TOLD_MAX)
        return cls(told, min(DAYS_MAX, max(1.0, told / JOBS_A_DAY)), jobs)


def write_jobs(*, seed: int, amount: Amount, now: datetime, with_alive: bool) -> None:
    """So many jobs with all their rows; `with_alive`: the newest of them wait or run."""
    told = stories(seed=seed, count=amount.told, days=amount.days, now=now, with_alive=with_alive)
    ended: list[str] = []
    while some := list(islice(told, AT_ONCE)):
        with transaction.atomic():
            _save(some)
        ended += [story.job.pk.hex for story in some if story.job.status in TERMINAL]
    if amount.whole > amount.told:
        _copy_older(ended, amount)
    if connection.vendor == "postgresql":
        # It plans by what it last counted; its own counting comes a minute later.
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def are_written(*, seed: int, amount: Amount, with_alive: bool) -> bool:
    """Whether the very same jobs are there already: ids follow from the seed."""
    told = stories(
        seed=seed,
        count=amount.told,
        days=amount.days,
        now=timezone.now(),
        with_alive=with_alive,
    )
    return Job.objects.filter(pk=next(told).job.pk).exists()


def chunks_of(attempt: Attempt, part: str, data: bytes) -> Iterator[LogChunk]:
    """What a part of its output is stored as; not saved."""
    for offset in range(0, len(data), CHUNK_BYTES):
        piece = data[offset : offset + CHUNK_BYTES]
        yield LogChunk(attempt=attempt, part=part, offset=offset, size=len(piece), data=piece)


def _save(some: list[Story]) -> None:
    Job.objects.bulk_create([story.job for story in some])
    Attempt.objects.bulk_create([attempt for story in some for attempt in story.attempts])
    # As they were written, which is their order in time.
    events = sorted((event for story in some for event in story.events), key=lambda event: event.at)
    JobEvent.objects.bulk_create(events)
    JobTerm.objects.bulk_create([term for story in some for term in story.terms])
    UsageSeries.objects.bulk_create([series for story in some for series in story.usage])
    acts = sorted((act for story in some for act in story.audit), key=lambda act: act.at)
    AuditEntry.objects.bulk_create(acts)
    LogChunk.objects.bulk_create(
        [
            chunk
            for story in some
            for part, data in story.output
            for chunk in chunks_of(story.attempts[-1], part, data)
        ]
    )


# -- copies --------------------------------------------------------------------------------------
def _copy_older(ended: Sequence[str], amount: Amount) -> None:
    """The first of `ended` again and again, until there are as many as wanted."""
    missing, copy = amount.whole - amount.told, 0
    while missing > 0:
        copy += 1
        taken = ended[-missing:] if missing < len(ended) else ended
        with transaction.atomic():
            _copy(taken, number=copy, days=round(copy * amount.days))
        missing -= len(taken)


def _copy(taken: Sequence[str], *, number: int, days: int) -> None:
    """The number is the first four digits of each id: no two are the same, and what belongs to one
    copy lies together in every index."""
    with connection.cursor() as cursor:
        columns = f"id {_uuid_type()} PRIMARY KEY, told varchar(36) UNIQUE"
        cursor.execute(f"CREATE TEMPORARY TABLE demo_taken ({columns})")
        rows = [(one, str(UUID(one))) for one in taken]
        cursor.executemany("INSERT INTO demo_taken VALUES (%s, %s)", rows)
        for table in COPIED:
            cursor.execute(_copying(table, number=number, days=days))
        cursor.execute("DROP TABLE demo_taken")


def _uuid_type() -> str:
    return Job._meta.pk.db_type(connection) or "uuid"


def _copying(copied: Copied, *, number: int, days: int) -> str:
    """The statement; every word of it is ours."""
    columns, values = [], []
    for column in copied.model._meta.concrete_fields:
        name = str(column.column)
        if isinstance(column, models.AutoField):
            continue
        columns.append(name)
        values.append(_value(copied, column, number=number, days=days))
    table = copied.model._meta.db_table
    # Ordered as they were written, which for events is their order in time.
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table} "  # noqa: S608
        f"WHERE {copied.key} IN (SELECT {copied.of} FROM demo_taken) ORDER BY {table}.id"
    )


def _value(copied: Copied, column: Any, *, number: int, days: int) -> str:
    name = str(column.column)
    if name == copied.key:
        return KEY[connection.vendor].format(copy=number, column=name, kind=copied.kind)
    if isinstance(column, models.DateTimeField):
        return EARLIER[connection.vendor].format(column=name, days=days)
    return NOT_COPIED.get(name, name)
