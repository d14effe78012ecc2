"""The admin console of jobs: operators read, cancel and run again; nobody writes a row by hand."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from tests.fixtures.pages import words
from tests.fixtures.sent_jobs import a_job, claimed, ended
from training.models import Job, SandboxProof
from training.states import Reason


def console(*permissions: str) -> Client:
    user = User.objects.create_user("olga", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def act(client: Client, action: str, *jobs: Job) -> Any:
    chosen = {"action": action, "job": [str(job.pk) for job in jobs]}
    return client.post(reverse("admin:training_job_act"), chosen, follow=True)


def said(answer: Any) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


@pytest.fixture
def operator(db: Any) -> Client:
    return console("view_job", "add_job", "change_job", "view_attempt", "view_jobevent")


def test_cancel_ends_a_waiting_job_in_the_name_of_the_operator(operator: Client):
    job = a_job()
    assert "cancelled while it waited" in said(act(operator, "cancel", job))
    job.refresh_from_db()
    assert job.status == "cancelled"
    assert job.events.get(name="cancelled").actor == "olga"


def test_cancel_of_an_ended_job_says_how_it_ended(operator: Client, room: Any):
    a_job()
    job = ended(claimed(), Reason.TIMEOUT)
    assert "has ended already (failed): nothing happens" in said(act(operator, "cancel", job))


def test_run_again_makes_a_job_of_the_operator(operator: Client):
    first = a_job()
    act(operator, "rerun", first)
    second = first.reruns.get()
    assert (second.owner, second.script) == ("olga", first.script)


def test_a_cap_is_told_and_nothing_is_made(operator: Client, settings: Any):
    first = a_job()
    settings.JOB_CAPS = {**settings.JOB_CAPS, "queue_jobs": 1}
    assert "no more are accepted" in said(act(operator, "rerun", first))
    assert Job.objects.count() == 1


@pytest.mark.parametrize("action", ["cancel", "rerun"])
def test_who_may_only_look_can_do_neither(db: Any, action: str):
    job = a_job()
    act(console("view_job"), action, job)
    job.refresh_from_db()
    assert (job.status, Job.objects.count()) == ("queued", 1)


def test_a_job_shows_owner_priority_attempts_and_its_other_jobs(operator: Client, room: Any):
    first = a_job()
    ended(claimed(), Reason.WORKER_LOST)
    act(operator, "rerun", first)
    second = first.reruns.get()
    page = operator.get(reverse("admin:training_job_change", args=[first.pk])).content.decode()
    for shown in ("ada", "normal", "Worker lost", str(second.pk)):
        assert shown in page
    page = operator.get(reverse("admin:training_job_change", args=[second.pk])).content.decode()
    assert str(first.pk) in page
    assert operator.get(reverse("admin:training_attempt_changelist")).status_code == 200


def test_a_job_is_not_changed_by_hand(operator: Client):
    job = a_job()
    answer = operator.post(
        reverse("admin:training_job_change", args=[job.pk]), {"status": "completed"}
    )
    assert answer.status_code == 403


def test_a_proof_shows_what_was_tried_and_what_came_of_it(db: Any):
    operator = console("view_sandboxproof")
    entry = {"network": "none", "what": "the host", "address": "172.30.0.1:1", "got": "refused"}
    SandboxProof.objects.create(
        engine="local", problem="Not held", results=[{**entry, "passed": False}]
    )
    page = operator.get("/admin/training/sandboxproof/local/change/").content.decode()
    assert "the host (172.30.0.1:1) FAILED, from none: refused" in words(page)
    assert "Not held" in page
