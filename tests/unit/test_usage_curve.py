"""What a job used over its time is kept in few points, and none of them says what nobody saw."""

from datetime import timedelta

import pytest
from django.utils import timezone

from tests.fixtures.sent_jobs import a_job, claimed
from training.models import UsageSeries
from training.services.usage import UsageCurves
from training.usage_curve import POINTS_MOST, Sample, UsageCurve

MB = 1024 * 1024


def test_a_step_has_its_highest_memory_and_its_cpus_on_average():
    curve = UsageCurve()
    for at, memory, cpu in [(1, 10, 0.0), (4, 30, 1.5), (6, 20, 3.5), (9, 5, 5.0)]:
        curve.add(Sample(at, memory, cpu))
    assert curve.memory == [30, 20]
    assert curve.cpus == [0.5, 0.7]


def test_a_step_in_which_nobody_looked_says_nothing():
    curve = UsageCurve()
    curve.add(Sample(1, 10, 0.1))
    curve.add(Sample(16, 20, 0.2))
    assert curve.memory == [10, None, None, 20]


def test_a_sample_that_comes_late_is_left_out():
    curve = UsageCurve()
    curve.add(Sample(3, 10, 0.1))
    assert not curve.add(Sample(2, 99, 9.0))
    assert curve.memory == [10]


def test_a_day_is_told_in_few_points_and_keeps_its_peak():
    curve = UsageCurve()
    for second in range(0, 86_400, 2):
        curve.add(Sample(second, 500 if second == 40_000 else 100, second * 0.5))
    assert len(curve.memory) == len(curve.cpus) <= POINTS_MOST
    assert max(value for value in curve.memory if value) == 500
    assert curve.cpus[-1] == pytest.approx(0.5, abs=0.01)
    assert curve.step_seconds * len(curve.memory) >= 86_400


@pytest.mark.django_db
def test_it_is_written_down_and_goes_on_where_another_supervisor_left_it(room):
    a_job()
    attempt = claimed()
    began = attempt.container_started_at = timezone.now()
    first, second = UsageCurves(), UsageCurves()
    used = {"memory_bytes": 3 * MB, "cpu_seconds": 1.0}
    first.note(attempt, **used, now=began + timedelta(seconds=2))
    second.note(attempt, **used, now=began + timedelta(seconds=12))
    row = UsageSeries.objects.get()
    assert row.memory_bytes == [3 * MB, None, 3 * MB]
    assert row.step_seconds == 5


@pytest.mark.django_db
def test_an_attempt_that_has_ended_is_forgotten(room):
    a_job()
    attempt = claimed()
    attempt.container_started_at = timezone.now()
    curves = UsageCurves()
    curves.note(attempt, memory_bytes=MB, cpu_seconds=0.1)
    curves.keep_only(set())
    UsageSeries.objects.all().delete()
    curves.note(attempt, memory_bytes=2 * MB, cpu_seconds=0.2)
    assert UsageSeries.objects.get().memory_bytes == [2 * MB]
