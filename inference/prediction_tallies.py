"""Keeps in the database how many predictions this web process answered and how fast, by time.

A thread writes, every few seconds and only where something was counted: never the way of a request.
Each process has rows of its own, so that none waits for another or loses what another one wrote.
"""

import logging
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from inference import metrics
from inference.metrics import Totals
from inference.models import PredictionTally, VersionTally
from registry.steps import added

log = logging.getLogger(__name__)

FLUSH_SECONDS = 20.0
END_SECONDS = 2.0
# Minutes for the last hour, quarters of an hour for the last week; each is kept a little longer.
MINUTE, QUARTER = 60, 900
KEPT = {MINUTE: timedelta(hours=2), QUARTER: timedelta(days=8)}
VERSIONS_AT_ONCE = 500
COUNTED = ("answered", "failed", "latencies")
SPAN = ("seconds", "begins_at", "process")

# A version by its model's name and its number.
Version = tuple[str, str]
ByVersion = Mapping[Version, Totals]


@dataclass(frozen=True)
class Answered:
    """What all processes answered from `begins_at` on, for as long as a point of a chart is."""

    begins_at: datetime
    answered: int = 0
    failed: int = 0
    latencies: Sequence[int] = ()


@dataclass(frozen=True)
class Span:
    """What was counted in the one that lasts: of each version, and of all of them."""

    begins_at: datetime
    versions: ByVersion = field(default_factory=dict)
    whole: Totals = field(default_factory=Totals)

    def plus(self, fresh: ByVersion) -> "Span":
        grown = {key: self.versions.get(key, Totals()).plus(told) for key, told in fresh.items()}
        return Span(self.begins_at, {**self.versions, **grown}, self.whole.plus(_sum(fresh)))


class Tallies:
    """Of one process."""

    def __init__(self) -> None:
        self._process = uuid.uuid4()
        self._seen: ByVersion = {}
        self._open: dict[int, Span] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        self._process = uuid.uuid4()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="prediction-tallies", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What was counted last is written, as far as that takes no longer than a moment."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            self._thread = None

    def flush(self, *, now: datetime) -> None:
        """Writes what was counted since the last time. Raises DatabaseError, and keeps it then."""
        counted = metrics.totals_by_version()
        fresh = {
            key: new
            for key, told in counted.items()
            if not (new := told.since(self._seen.get(key, Totals()))).is_nothing
        }
        if not fresh:
            return
        grown = {size: self._lasting(size, now=now).plus(fresh) for size in KEPT}
        with transaction.atomic():
            for size, span in grown.items():
                self._write(size, span, fresh)
        self._open, self._seen = grown, counted

    def _lasting(self, size: int, *, now: datetime) -> Span:
        begin = begin_of(now, size)
        before = self._open.get(size)
        return before if before is not None and before.begins_at == begin else Span(begin)

    def _write(self, size: int, span: Span, changed: Iterable[Version]) -> None:
        """The whole, and of the versions those that were asked since the last time."""
        within: dict[str, Any] = {
            "begins_at": span.begins_at,
            "seconds": size,
            "process": self._process,
        }
        PredictionTally.objects.update_or_create(**within, defaults=_columns(span.whole))
        VersionTally.objects.bulk_create(
            [
                VersionTally(
                    model_name=name, version=version, **within, **_columns(span.versions[key])
                )
                for key in changed
                for name, version in [key]
            ],
            batch_size=VERSIONS_AT_ONCE,
            update_conflicts=True,
            unique_fields=["model_name", "version", *SPAN],
            update_fields=COUNTED,
        )

    def _run(self) -> None:
        going = True
        while going:
            going = not self._stopping.wait(FLUSH_SECONDS)
            try:
                self.flush(now=timezone.now())
            except (DatabaseError, InterfaceError) as error:
                log.warning("prediction_tallies.not_written %s", error)
            finally:
                connection.close()


TALLIES = Tallies()


def answers_over(
    span: timedelta, *, points: int, now: datetime, version: Version | None = None
) -> list[Answered]:
    """So many points of equal length, oldest first; the last one lasts still. One query.

    Of one version, or of all together.
    """
    length = span / points
    size = MINUTE if length.total_seconds() < QUARTER else QUARTER
    first = begin_of(now, int(length.total_seconds())) - (points - 1) * length
    rows = _rows_of(version).filter(seconds=size, begins_at__gte=first, begins_at__lte=now)
    found: dict[int, Answered] = {}
    for begins_at, answered, failed, latencies in rows.values_list("begins_at", *COUNTED):
        number = int((begins_at - first) / length)
        before = found.get(number) or Answered(first + number * length)
        found[number] = Answered(
            before.begins_at,
            before.answered + answered,
            before.failed + failed,
            added(before.latencies, latencies),
        )
    return [found.get(number) or Answered(first + number * length) for number in range(points)]


def forget_old(now: datetime | None = None) -> int:
    """What no chart shows any more; returns how many rows went."""
    gone = 0
    for size, kept in KEPT.items():
        old = {"seconds": size, "begins_at__lt": (now or timezone.now()) - kept}
        for rows in (PredictionTally.objects, VersionTally.objects):
            gone += rows.filter(**old).delete()[0]
    return gone


def begin_of(moment: datetime, seconds: int) -> datetime:
    """When the span of so many seconds began in which a moment is, counted from 1970."""
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, UTC)


def _rows_of(version: Version | None) -> QuerySet[Any]:
    if version is None:
        return PredictionTally.objects.all()
    name, number = version
    return VersionTally.objects.filter(model_name=name, version=number)


def _sum(told: ByVersion) -> Totals:
    whole = Totals()
    for one in told.values():
        whole = whole.plus(one)
    return whole


def _columns(told: Totals) -> dict[str, Any]:
    return {"answered": told.answered, "failed": told.failed, "latencies": list(told.steps)}
