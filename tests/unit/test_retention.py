"""What is old goes, in the order of its age; what a registered model came from stays."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from mlops_site.models import RETENTION, Heartbeat
from registry.mlflow_client import RegistryUnavailable
from tests.fixtures.jobs import a_job, an_attempt
from training.models import Attempt, IdempotencyKey, Job, LogChunk
from training.services.retention import Retention

pytestmark = pytest.mark.django_db


class Registry:
    """Knows which jobs models came from, and remembers whose runs it was to delete."""

    def __init__(self) -> None:
        self.needed: set[str] = set()
        self.deleted: list[str] = []

    def jobs_with_models(self) -> frozenset[str]:
        return frozenset(self.needed)

    def delete_runs_without_model(self, attempt: str) -> int:
        self.deleted.append(attempt)
        return 1


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def rules(settings):
    settings.KEEP_JOBS_DAYS = 100
    settings.KEEP_JOBS = 0
    settings.KEEP_LOGS_DAYS = 10
    settings.KEEP_LOGS_OF_JOBS = 0
    settings.KEEP_RUNS_DAYS = 20
    return settings


def ended(days: float, **values) -> Job:
    job = a_job(ended_at=timezone.now() - timedelta(days=days), **values)
    an_attempt(job=job, printed=b"hello\n")
    return job


def test_jobs_beyond_their_age_go_with_all_they_have(registry: Registry):
    old, young = ended(101), ended(1)
    again = a_job(ended_at=timezone.now(), rerun_of=old)
    assert Retention(registry).clear()
    assert set(Job.objects.all()) == {young, again}
    again.refresh_from_db()
    assert again.rerun_of is None
    assert list(Attempt.objects.values_list("job", flat=True)) == [young.pk]
    assert LogChunk.objects.count() == 1
    assert registry.deleted == [f"{old.pk}/1"]


def test_jobs_beyond_their_number_go_the_oldest_first(registry: Registry, rules):
    rules.KEEP_JOBS = 2
    jobs = [ended(days) for days in (4, 3, 2, 1)]
    Retention(registry).clear()
    assert set(Job.objects.all()) == set(jobs[2:])


def test_what_a_registered_model_came_from_stays(registry: Registry):
    job = ended(5000, environment_lock="six==1.17.0", run_id="r")
    registry.needed = {str(job.pk)}
    assert Retention(registry).clear()
    job.refresh_from_db()
    assert (job.environment_lock, job.run_id) == ("six==1.17.0", "r")
    assert registry.deleted == []


def test_what_runs_or_waits_stays(registry: Registry):
    long_ago = timezone.now() - timedelta(days=5000)
    job = a_job(created_at=long_ago)
    an_attempt(job=job, printed=b"x")
    Retention(registry).clear()
    assert Job.objects.get() == job
    assert LogChunk.objects.count() == 1


def test_old_logs_and_runs_go_before_their_job(registry: Registry):
    job = ended(50, run_id="r")
    with_log = ended(5)
    Retention(registry).clear()
    job.refresh_from_db()
    assert job.run_id == ""
    assert registry.deleted == [f"{job.pk}/1"]
    assert [chunk.attempt.job for chunk in LogChunk.objects.all()] == [with_log]
    assert job.attempts.get().log_bytes == 0


def test_zero_keeps_for_ever(registry: Registry, rules):
    rules.KEEP_JOBS_DAYS = rules.KEEP_LOGS_DAYS = rules.KEEP_RUNS_DAYS = 0
    ended(5000, run_id="r")
    Retention(registry).clear()
    assert Job.objects.count() == LogChunk.objects.count() == 1
    assert registry.deleted == []


def test_old_idempotency_keys_go(registry: Registry):
    for hours, key in ((25, "old"), (23, "young")):
        IdempotencyKey.objects.create(
            key=key, body_hash="h", created_at=timezone.now() - timedelta(hours=hours)
        )
    Retention(registry).clear()
    assert IdempotencyKey.objects.get().key == "young"


def test_a_call_whose_time_is_up_is_gone_on_with_by_the_next(registry: Registry, rules):
    rules.KEEP_LOGS_DAYS = rules.KEEP_RUNS_DAYS = 0
    for days in (103, 102, 101):
        ended(days)
    looks = iter([False, False, True])
    assert not Retention(registry, over=lambda: next(looks, True)).clear()
    assert Job.objects.count() == 1
    assert Retention(registry).clear()
    assert Job.objects.count() == 0


def test_the_preview_counts_and_changes_nothing(registry: Registry, monkeypatch):
    needed, _ = ended(101), ended(101, run_id="r")
    registry.needed = {str(needed.pk)}
    monkeypatch.setattr("mlops_site.management.commands.retention.model_registry", lambda: registry)
    said = StringIO()
    call_command("retention", "--dry-run", stdout=said)
    lines = [line.split() for line in said.getvalue().splitlines()]
    assert lines[1][:3] == ["jobs", "1", "1"]
    assert "ended more than 100 days ago" in said.getvalue()
    assert Job.objects.count() == 2
    assert registry.deleted == []
    assert not Heartbeat.objects.filter(name=RETENTION).exists()
    call_command("retention", stdout=said)
    assert Job.objects.get() == needed
    assert Heartbeat.is_fresh(RETENTION)


def test_without_mlflow_no_job_goes(registry: Registry, monkeypatch):
    def away() -> frozenset[str]:
        raise RegistryUnavailable

    monkeypatch.setattr(registry, "jobs_with_models", away)
    ended(101)
    with pytest.raises(RegistryUnavailable):
        Retention(registry).clear()
    assert Job.objects.count() == 1
