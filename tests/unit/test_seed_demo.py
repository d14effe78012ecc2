"""The demo's rows: a story that could have been, each time the same, never among real work."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse
from django.utils import timezone

from inference.models import AliasChange, ModelPolicy, ModelServer
from mlops_site.demo import rows
from mlops_site.demo.fates import ALIVE, FAILURES
from mlops_site.demo.jobs import stories
from mlops_site.models import Heartbeat, Installation
from registry.models import AuditEntry
from tests.fixtures.people import somebody
from tests.fixtures.sent_jobs import a_job
from training.models import Attempt, BuiltEnvironment, Gpu, Job, JobTerm, LogChunk
from training.states import PHASES, TERMINAL, Phase, Status

pytestmark = pytest.mark.django_db
JOBS = 320
ENOUGH_FOR_ALL = 7 * len(FAILURES)


def seeded(jobs: int = JOBS, **options: Any) -> None:
    call_command("seed_demo", jobs=jobs, **options)


def told(seed: int) -> list[tuple[Any, ...]]:
    now = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    return [
        (
            *(story.job.pk, story.job.script, story.job.created_at - now, story.job.reason),
            *(len(story.events), [output for _, output in story.output]),
        )
        for story in stories(seed=seed, count=60, days=2, now=now, with_alive=True)
    ]


def test_the_same_seed_tells_the_same_story_and_another_one_another():
    assert told(1) == told(1)
    assert told(1) != told(2)


def test_every_way_to_end_and_every_phase_is_there():
    seeded()
    assert Job.objects.count() == JOBS >= ENOUGH_FOR_ALL + len(ALIVE)
    assert set(Job.objects.values_list("status", flat=True)) == set(Status)
    assert set(FAILURES) < set(Job.objects.values_list("reason", flat=True))
    running = Job.objects.filter(status=Status.RUNNING)
    assert set(running.values_list("phase", flat=True)) == PHASES[Status.RUNNING]


def test_each_job_is_told_as_one_that_was_run():
    seeded()
    for job in Job.objects.prefetch_related("events", "attempts"):
        events, attempts = list(job.events.all()), list(job.attempts.all())
        moments = [event.at for event in events]
        assert moments == sorted(moments) and moments[0] == job.created_at <= timezone.now()
        assert events[-1].phase == job.phase and events[-1].status == job.status
        assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert (job.completed_at is None) == (job.status not in TERMINAL)
        opened = [attempt for attempt in attempts if attempt.finished_at is None]
        assert len(opened) == (job.status == Status.RUNNING)


def test_what_a_script_said_last_is_why_its_job_failed():
    seeded()
    job = Job.objects.filter(reason="script_error", attempts__log_bytes__gt=0).latest("created_at")
    printed = b"".join(
        bytes(chunk.data) for chunk in LogChunk.objects.filter(attempt__job=job).order_by("offset")
    )
    assert job.error.startswith("ValueError: ") and job.error.encode() in printed


def test_jobs_are_found_by_their_words_and_their_tags():
    seeded(60)
    job = Job.objects.latest("created_at")
    terms = set(JobTerm.objects.filter(job=job).values_list("term", flat=True))
    assert f"tag:team={job.tags['team']}" in terms


def test_every_page_of_it_opens():
    seeded(60)
    client = somebody("administrator", name="ada.b")
    for name in ("index", "training_job_changelist", "inference_modelserver_changelist"):
        assert client.get(reverse(f"admin:{name}")).status_code == 200
    for job in Job.objects.all()[:20]:
        assert client.get(reverse("admin:training_job_change", args=[job.pk])).status_code == 200


def test_what_is_older_than_what_is_told_are_copies_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows, "TOLD_MAX", 50)
    seeded(180)
    assert Job.objects.count() == 180
    assert Job.objects.exclude(status__in=TERMINAL).count() == len(ALIVE)
    first = Job.objects.filter(status=Status.COMPLETED).latest("created_at")
    copies = Job.objects.filter(script=first.script, created_at__lt=first.created_at)
    assert copies.count() == 4
    for copy in copies:
        assert copy.attempts.count() == first.attempts.count()
        assert copy.events.count() == first.events.count()
        assert copy.duration_seconds == pytest.approx(first.duration_seconds, abs=0.01)
        assert (first.created_at - copy.created_at).seconds in (0, 86_399)
        assert set(copy.terms.values_list("created_at", flat=True)) == {copy.created_at}
        assert AuditEntry.objects.filter(key=str(copy.pk)).exists()


def test_models_servers_environments_and_processes_stand_around_it():
    seeded(60)
    assert set(ModelServer.objects.values_list("status", flat=True)) > {"ready", "failed"}
    assert set(BuiltEnvironment.objects.values_list("state", flat=True)) == {
        *BuiltEnvironment.State.values
    }
    assert AliasChange.objects.filter(how="rolled_back").exists()
    assert Heartbeat.is_fresh("worker") and Heartbeat.is_fresh("supervisor")


def test_it_is_not_put_among_jobs_that_are_there():
    a_job()
    with pytest.raises(CommandError, match="There are jobs here already"):
        seeded(20)
    assert Job.objects.count() == 1


def test_it_is_not_put_into_an_installation_that_people_work_with(settings: Any):
    Installation.claim("prod-1")
    settings.DEBUG = False
    with pytest.raises(CommandError, match="This is the installation prod-1"):
        seeded(20)
    assert not Job.objects.exists()


def test_the_same_story_is_not_told_twice_in_one_installation():
    seeded(80, anyway=True)
    with pytest.raises(CommandError, match="choose another --seed"):
        seeded(80, anyway=True)
    seeded(80, anyway=True, seed=2)
    assert Job.objects.count() == 160


def test_with_the_flag_it_adds_nothing_that_anybody_would_run_or_log_in_with(settings: Any):
    settings.DEBUG = False
    Installation.claim("prod-1")
    mine = a_job()
    seeded(80, anyway=True, password="a long password")
    assert Job.objects.count() == 81
    assert list(Job.objects.exclude(status__in=TERMINAL)) == [mine]
    assert not Attempt.objects.filter(finished_at=None).exists()
    assert not ModelServer.objects.exists() and not Heartbeat.objects.exists()
    assert not User.objects.exists()


def test_people_are_made_only_with_a_password_that_was_given():
    seeded(20)
    assert not User.objects.exists()
    for rows_of in (Job, ModelServer, ModelPolicy, Gpu):
        rows_of.objects.all().delete()
    seeded(20, password="a long password")
    assert User.objects.get(username="otto").groups.get().name == "operator"
    assert User.objects.get(username="otto").check_password("a long password")


@pytest.mark.parametrize("jobs", [1, 5, 40])
def test_a_small_installation_is_one_too(jobs: int):
    seeded(jobs)
    assert Job.objects.count() == jobs
    assert not Job.objects.filter(status=Status.RUNNING, phase=Phase.ENDED).exists()
