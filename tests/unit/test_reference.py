"""What the platform publishes of its rules is what it keeps."""

from django.core.management import call_command
from django.test import Client

from tests.fixtures.sent_jobs import a_job, claimed
from training.states import ENDINGS, Reason


def test_every_reason_is_published_with_its_words(api: Client):
    told = {
        entry["reason"]: entry for entry in api.get("/mlops/training/reasons").json()["reasons"]
    }
    assert set(told) == set(Reason.values)
    lost = told["worker_lost"]
    assert (lost["status"], lost["fault"]) == ("failed", "platform")
    assert lost["retryable"] and lost["retried_automatically"]
    assert not told["script_error"]["retried_automatically"]
    assert told["succeeded"]["sentence"] == ENDINGS[Reason.SUCCEEDED].sentence


def test_the_guide_has_the_table_of_today():
    call_command("document_reasons", "--check")


def test_limits_say_how_much_is_used(api: Client, room, settings):
    a_job(owner="127.0.0.1"), claimed(), a_job(owner="127.0.0.1"), a_job()
    limits = api.get("/mlops/training/limits").json()
    assert limits["job"]["timeout"] == {
        "default": 300,
        "minimum": 60,
        "maximum": 3600,
        "used": None,
        "unit": "seconds",
    }
    used = {name: limit["used"] for name, limit in limits["platform"].items()}
    assert used == {
        "queue_jobs": 2,
        "user_jobs": 2,
        "experiment_jobs": None,
        "running_jobs": 1,
        "jobs_memory": settings.JOB_MEMORY_MB,
        "jobs_cpus": 1.0,
        "jobs_gpus": 0,
    }
    assert limits["platform"]["jobs_memory"]["maximum"] == 16_000 - settings.RESERVED_MEMORY_MB
    assert limits["waiting_for"] is None


def test_limits_say_which_pythons_there_are(api: Client, settings):
    settings.PYTHON_VERSIONS = ("3.11", "3.13")
    told = api.get("/mlops/training/limits").json()["python_version"]
    assert told == {"default": "3.11", "offered": ["3.11", "3.13"]}


def test_limits_name_what_new_jobs_wait_for(api: Client, room):
    room.short_of = "disk"
    room.save()
    assert api.get("/mlops/training/limits").json()["waiting_for"] == "disk"


def test_limits_are_told_without_an_engine(api: Client):
    limits = api.get("/mlops/training/limits").json()
    assert limits["waiting_for"] == "engine"
    assert "jobs_memory" not in limits["platform"]


def test_every_limit_that_a_problem_can_name_is_published(api: Client, settings):
    assert set(settings.JOB_CAPS) <= set(api.get("/mlops/training/limits").json()["platform"])
