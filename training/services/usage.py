"""Keeps what running attempts use over time; the supervisor samples, and nobody else writes."""

from datetime import datetime

from django.utils import timezone

from training.models import Attempt, UsageSeries
from training.usage_curve import Sample, UsageCurve


class UsageCurves:
    """Of the attempts that run now, in memory; each is written down as it grows."""

    def __init__(self) -> None:
        self._curves: dict[int, UsageCurve] = {}

    def keep_only(self, attempts: set[int]) -> None:
        """The others have ended."""
        for attempt in set(self._curves) - attempts:
            del self._curves[attempt]

    def note(
        self,
        attempt: Attempt,
        *,
        memory_bytes: int,
        cpu_seconds: float,
        now: datetime | None = None,
    ) -> None:
        began = attempt.container_started_at
        if began is None:
            return
        at = ((now or timezone.now()) - began).total_seconds()
        curve = self._curves.get(attempt.pk)
        if curve is None:
            curve = self._curves[attempt.pk] = curve_of(attempt.pk)
        if at >= 0 and curve.add(Sample(at, memory_bytes, cpu_seconds)):
            _write(attempt.pk, curve)


def curve_of(attempt_id: int) -> UsageCurve:
    """As it was written down; an empty one where nothing was."""
    row = UsageSeries.objects.filter(attempt=attempt_id).first()
    if row is None:
        return UsageCurve()
    return UsageCurve(row.step_seconds, list(row.memory_bytes), list(row.cpus))


def _write(attempt_id: int, curve: UsageCurve) -> None:
    values = {
        "step_seconds": curve.step_seconds,
        "memory_bytes": curve.memory,
        "cpus": curve.cpus,
    }
    if not UsageSeries.objects.filter(attempt=attempt_id).update(**values):
        UsageSeries.objects.create(attempt_id=attempt_id, **values)
