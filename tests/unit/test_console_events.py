"""The lists of what happened to jobs: found quickly, however many jobs there were."""

import html
import re
from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from mlops_site.console.queue_board import queue_board
from tests.fixtures.jobs import a_job
from tests.fixtures.people import somebody
from tests.fixtures.plans import steps_of
from training.console import events
from training.models import Attempt, BuiltEnvironment, Job, JobEvent
from training.services import environment_needs

pytestmark = pytest.mark.django_db


def happened(job: Job, *names: str, detail: str = "") -> None:
    now = timezone.now()
    made = [
        JobEvent(job=job, at=now, name=name, status=job.status, phase=job.phase, detail=detail)
        for name in names
    ]
    JobEvent.objects.bulk_create(made)


def tried(job: Job, container_id: str) -> None:
    now = timezone.now()
    Attempt.objects.create(
        job=job,
        number=1,
        container_id=container_id,
        lease_owner="w",
        lease_expires_at=now,
        created_at=now,
    )


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer")


def listed(client: Client, query: str = "", *, of: str = "jobevent") -> str:
    answer = client.get(reverse(f"admin:training_{of}_changelist") + query)
    assert answer.status_code == 200
    return html.unescape(answer.content.decode())


def rows(page: str) -> int:
    return len(re.findall(r'<th class="field-', page))


def test_names_to_choose_from_are_those_of_the_newest_events(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
):
    happened(a_job(), "long_ago", "accepted", "claimed")
    monkeypatch.setattr(events, "LOOKED_AT", 2)
    page = listed(viewer)
    assert "?name=claimed" in page and "?name=long_ago" not in page
    page = listed(viewer, "?name=long_ago")
    assert rows(page) == 1 and "?name=long_ago" in page, "what is chosen can be seen"


def test_a_job_is_found_by_its_id_and_words_in_what_is_new(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
):
    first, second = a_job(), a_job()
    happened(first, "accepted", "claimed", detail="a needle")
    happened(second, "accepted", detail="a needle, too")
    monkeypatch.setattr(events, "LOOKED_AT", 1)
    assert rows(listed(viewer, f"?q={first.pk}")) == 2
    assert rows(listed(viewer, "?q=needle")) == 1
    assert rows(listed(viewer, "?q=nowhere")) == 0
    assert "newest" in listed(viewer, "?q=needle")


def test_an_attempt_is_found_by_its_job_or_its_container(viewer: Client):
    one, other = a_job(), a_job()
    tried(one, "f00")
    tried(other, "ba7")
    assert rows(listed(viewer, f"?q={one.pk}", of="attempt")) == 1
    assert rows(listed(viewer, "?q=ba7", of="attempt")) == 1
    assert rows(listed(viewer, "?q=b", of="attempt")) == 0


def test_lists_take_no_more_steps_for_more_events(viewer: Client, monkeypatch: pytest.MonkeyPatch):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite calls back for every so many steps.")
    monkeypatch.setattr(events, "LOOKED_AT", 20)

    def more(count: int) -> None:
        for number in range(count):
            job = a_job()
            happened(job, *["often"] * 5, detail="a word")
            tried(job, f"c{number}-{count}")

    def steps(query: str, of: str = "jobevent") -> int:
        return steps_of(lambda: listed(viewer, query, of=of))

    asked = (("", "jobevent"), ("?name=never", "jobevent"), ("?q=none", "jobevent"))
    asked += (("?q=none", "attempt"),)
    more(30)
    few = [steps(*one) for one in asked]
    more(120)
    many = [steps(*one) for one in asked]
    assert all(now < then * 1.3 for now, then in zip(many, few, strict=True)), (few, many)


def test_what_runs_is_found_among_any_number_of_ended_jobs():
    if connection.vendor != "sqlite":
        pytest.skip("SQLite calls back for every so many steps.")
    long_ago = timezone.now() - timedelta(days=2)

    def more(count: int) -> None:
        for _ in range(count):
            tried(a_job(ended_at=long_ago, environment_key="k"), "c")
        Attempt.objects.update(finished_at=long_ago)

    def running() -> Sequence[str]:
        return environment_needs.in_use("k")

    def board() -> list[Attempt]:
        return list(queue_board(now=timezone.now()).running)

    more(10)
    few = [steps_of(running), steps_of(board)]
    more(150)
    many = [steps_of(running), steps_of(board)]
    job = a_job(environment_key="k")
    tried(job, "d")
    assert running() == [f"job {job.pk}"] and [one.job_id for one in board()] == [job.pk]
    assert all(now < then * 2 for now, then in zip(many, few, strict=True)), (few, many)


def test_what_was_registered_lately_is_found_among_any_number_of_older_jobs():
    if connection.vendor != "sqlite":
        pytest.skip("SQLite calls back for every so many steps.")
    built = BuiltEnvironment(key="k", needed_by=[])
    long_ago = timezone.now() - timedelta(days=2)

    def more(count: int) -> None:
        for _ in range(count):
            a_job(ended_at=long_ago, environment_key="k", model_version="1")

    def steps() -> int:
        return steps_of(lambda: environment_needs.models_in([built]))

    more(10)
    a_job(ended_at=timezone.now(), environment_key="k", model_name="new", model_version="1")
    assert environment_needs.models_in([built]) == {"k": ["model new version 1"]}
    few = steps()
    more(150)
    assert steps() < few * 1.3
