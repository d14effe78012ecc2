"""What a job tells beside its row: attempts, use, time per phase, place in the queue."""

from datetime import UTC, datetime, timedelta

from django.test import Client
from django.utils import timezone

from tests.fixtures.sent_jobs import a_job, claimed, ended
from training.facts import seconds_by_phase
from training.models import Attempt, Job
from training.services import rows
from training.states import Phase, Priority, Reason

START = datetime(2026, 1, 1, tzinfo=UTC)


def told(api: Client, job: Job) -> dict:
    return api.get(f"/mlops/training/jobs/{job.pk}").json()


def test_a_job_that_nothing_holds_back_is_first_and_waits_for_nothing(api: Client, room):
    job = told(api, a_job())
    assert (job["position"], job["waiting_for"]) == (1, None)
    assert (job["owner"], job["priority"], job["attempt"]) == ("ada", "normal", None)
    assert job["attempts"] == []


def test_jobs_behind_others_wait_for_their_turn_by_priority_then_age(api: Client, room):
    first, second = a_job(), a_job(priority=Priority.LOW)
    high = a_job(priority=Priority.HIGH)
    assert [told(api, job)["position"] for job in (high, first, second)] == [1, 2, 3]
    assert told(api, second)["waiting_for"] == "turn"
    listed = api.get("/mlops/training/jobs").json()["jobs"]
    assert [job["position"] for job in listed] == [1, 3, 2]


def test_without_an_engine_a_job_says_so(api: Client):
    assert told(api, a_job())["waiting_for"] == "engine"


def test_a_job_says_what_the_platform_is_short_of(api: Client, room):
    room.short_of = "mlflow"
    room.save()
    assert told(api, a_job())["waiting_for"] == "mlflow"


def test_a_job_that_does_not_fit_beside_others_says_what_is_missing(api: Client, room, settings):
    a_job(), claimed()
    settings.JOB_CPUS = 4.0
    assert told(api, a_job())["waiting_for"] == "cpus"


def test_a_job_that_is_tried_again_waits_for_that(api: Client, room):
    a_job()
    job = ended(claimed(), Reason.ENGINE_UNAVAILABLE)
    assert job.not_before > timezone.now()
    document = told(api, job)
    assert (document["waiting_for"], document["attempt"]) == ("retry", 1)
    assert document["attempts"][0]["reason"] == "engine_unavailable"
    assert document["attempts"][0]["ended_at"]


def test_a_job_that_runs_has_no_place_in_the_queue(api: Client, room):
    a_job()
    job = told(api, claimed().job)
    assert (job["position"], job["waiting_for"]) == (None, None)


def test_use_is_the_most_memory_of_an_attempt_and_the_sum_of_the_rest(api: Client, room):
    job = a_job()
    ended(claimed(), Reason.WORKER_LOST)
    Job.objects.update(not_before=None)
    claimed()
    for attempt in Attempt.objects.all():
        Attempt.objects.filter(pk=attempt.pk).update(
            peak_memory_bytes=attempt.number * 100, cpu_seconds=1.5, log_bytes=10, exit_code=3
        )
    document = told(api, job)
    assert document["usage"]["peak_memory_bytes"] == 200
    assert document["usage"]["cpu_seconds"] == 3.0
    assert document["usage"]["log_bytes"] == 20
    assert [attempt["exit_code"] for attempt in document["attempts"]] == [3, 3]


def test_each_phase_has_its_seconds_until_the_end(api: Client, room):
    job = a_job()
    attempt = claimed()
    rows.enter_phase(attempt, Phase.TRAINING)
    ended(attempt)
    for number, event in enumerate(job.events.all()):
        job.events.filter(pk=event.pk).update(at=START + timedelta(seconds=number**2))
    assert told(api, job)["usage"]["phase_seconds"] == {
        "waiting": 1.0,
        "building_environment": 3.0,
        "training": 5.0,
    }


def test_a_phase_that_lasts_is_not_counted_yet():
    """Or a job's document would change while nothing happens to it."""
    moments = [(START, Phase.WAITING), (START + timedelta(seconds=2), Phase.TRAINING)]
    assert seconds_by_phase(moments) == {"waiting": 2.0}
    assert seconds_by_phase([]) == {}
