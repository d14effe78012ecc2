"""Pausing and draining: nothing new is begun, nothing is lost, and everybody is told by whom."""

import base64
import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from mlops_site import health
from mlops_site.admission import held_now
from registry import holds
from registry.holds import Held
from registry.models import AuditEntry, Hold
from tests.fixtures.people import GROUPS
from tests.fixtures.sent_jobs import a_job, claimed
from tests.unit.job_world import World
from training.models import (
    BuiltEnvironment,
    EngineCapacity,
    Job,
    Resolution,
    WaitingContainer,
)
from training.services import admission, claim, environments, resolve, waiting
from training.services.claim import LOCAL_ENGINE, waiting_of
from training.states import Status

pytestmark = pytest.mark.django_db
ADMISSION = "/mlops/admission"
UPLOAD = {"script_name": "train.py", "script_content": "import mlflow\nmlflow.autolog()\n"}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def logged_in(group: str) -> dict[str, str]:
    """The header of somebody of the group, by name and password."""
    user = User.objects.create_user("olga", password="a long password")
    user.groups.add(Group.objects.get(name=group))
    pair = base64.b64encode(b"olga:a long password").decode()
    return {"HTTP_AUTHORIZATION": f"Basic {pair}"}


def put(client: Client, asked: dict[str, Any], **headers: str) -> Any:
    return client.put(ADMISSION, json.dumps(asked), content_type="application/json", **headers)


# -- nothing new is begun -------------------------------------------------------------------------
def test_a_job_that_is_sent_while_it_is_paused_waits_and_is_started_when_it_is_resumed(
    world: World,
):
    admission.pause(actor="olga")
    job = world.submit()
    world.tick()
    world.launch()
    job.refresh_from_db()
    assert (job.status, world.queue, world.engine.containers) == (Status.QUEUED, [], {})
    admission.resume(actor="olga")
    world.tick()
    world.work_off()
    job.refresh_from_db()
    assert job.status == Status.RUNNING


def test_a_worker_that_was_asked_before_the_pause_takes_no_job_after_it(room: EngineCapacity):
    a_job()
    assert claim.claimable() is not None
    admission.pause(actor="olga")
    assert claim.claim_next() is None


def test_what_runs_goes_on_to_its_end(world: World):
    job = world.submit()
    world.launch()
    attempt = world.attempt_of(job)
    admission.pause(actor="olga")
    admission.drain(actor="olga")
    world.script_ends(attempt, exit_code=0, logs_model=True)
    world.tick()
    world.work_off()
    job.refresh_from_db()
    assert job.status == Status.COMPLETED


def test_a_job_that_failed_through_no_fault_of_its_own_waits_for_the_end_of_the_pause(
    world: World,
):
    job = world.submit()
    world.launch()
    admission.pause(actor="olga")
    world.engine.remove(world.attempt_of(job).container_id)
    world.reconcile()
    world.work_off()
    world.waits_are_over()
    world.launch()
    job.refresh_from_db()
    assert job.status == Status.QUEUED
    assert waiting_of([job])[job.pk].waiting_for == "paused"


def test_an_upload_is_accepted_while_it_is_paused(api: Client, room: EngineCapacity):
    admission.pause(actor="olga")
    sent = api.post("/mlops/training/upload", json.dumps(UPLOAD), content_type="application/json")
    assert sent.status_code == 202
    job = api.get(f"/mlops/training/jobs/{sent.json()['job_id']}").json()
    assert (job["status"], job["waiting_for"]) == ("queued", "paused")


def test_a_full_disk_refuses_uploads_whether_it_is_paused_or_not(api: Client, room: EngineCapacity):
    EngineCapacity.objects.update(short_of="disk")
    admission.pause(actor="olga")
    sent = api.post("/mlops/training/upload", json.dumps(UPLOAD), content_type="application/json")
    assert sent.status_code == 503


def test_a_pause_outlives_every_process(world: World):
    admission.pause(actor="olga")
    world.submit()
    world.new_supervisor()
    world.measure()
    world.tick()
    assert world.queue == []


def test_a_paused_platform_builds_what_is_asked_for_and_a_drained_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[Any] = []
    for module in (resolve, environments):
        monkeypatch.setattr(module, "async_task", lambda *task, **_: asked.append(task[0]))
    now = timezone.now()
    Resolution.objects.create(set_hash="s", asked_at=now)
    BuiltEnvironment.objects.create(key="e", asked="rebuild", asked_at=now, created_at=now)
    admission.drain(actor="olga")
    resolve.dispatch()
    environments.dispatch()
    assert asked == [] and not environments.is_idle()
    admission.undrain(actor="olga")
    admission.pause(actor="olga")
    resolve.dispatch()
    environments.dispatch()
    assert asked == [resolve.RESOLVE_TASK, environments.GRANT_TASK]


def test_a_drained_engine_gives_its_waiting_containers_up_and_a_paused_one_keeps_them():
    with World(waiting=1) as world:
        job = world.submit()
        world.launch()
        world.script_ends(world.attempt_of(job), exit_code=0, logs_model=True)
        world.finish(world.attempt_of(job))
        world.fill_pool()
        admission.pause(actor="olga")
        world.measure()
        assert WaitingContainer.objects.count() == 1
        admission.drain(actor="olga")
        world.measure()
        assert not WaitingContainer.objects.exists() and not world.engine.containers
        assert waiting.missing() is None


# -- what is told ---------------------------------------------------------------------------------
def test_the_first_word_stands_and_a_second_one_changes_nothing():
    admission.pause(actor="olga", why=" The disk is replaced.\x00 ")
    first = admission.pause(actor="bob", why="Something else.").paused
    assert first is not None
    assert (first.by, first.why, first.held) == ("olga", "The disk is replaced.", Held.PAUSED)
    assert [entry.act for entry in AuditEntry.objects.all()] == ["platform.pause"]


def test_pause_and_drain_are_two_words_and_each_is_taken_back_alone(room: EngineCapacity):
    a_job()
    admission.pause(actor="olga")
    admission.drain(actor="bob")
    admission.resume(actor="olga")
    told = holds.admission(LOCAL_ENGINE)
    assert told.paused is None and told.draining is not None
    assert claim.claim_next() is None
    admission.undrain(actor="olga")
    assert claim.claim_next() is not None


def test_taking_back_what_nobody_said_is_harmless_and_not_written_down():
    admission.resume(actor="olga")
    admission.undrain(actor="olga")
    assert not AuditEntry.objects.exists()


def test_what_holds_costs_no_query_of_its_own(room: EngineCapacity, django_assert_num_queries: Any):
    admission.pause(actor="olga", why="w")
    with django_assert_num_queries(2):
        left = claim.room_left()
    assert left.admission == holds.admission(LOCAL_ENGINE)


def test_a_platform_that_was_never_measured_says_that_it_is_paused_all_the_same():
    admission.pause(actor="olga")
    assert claim.room_left().why_not(Job()) == "paused"


def test_what_is_left_is_counted_until_there_is_nothing(room: EngineCapacity):
    a_job()
    claimed()
    now = timezone.now()
    BuiltEnvironment.objects.create(key="e", state="building", created_at=now)
    admission.drain(actor="olga")
    assert held_now().left.words == "1 job, 1 build"
    assert not held_now().is_drained
    BuiltEnvironment.objects.update(state="ready")
    Job.objects.all().delete()
    assert held_now().is_drained


# -- in the API and in the shell ------------------------------------------------------------------
def test_everybody_may_read_who_paused_it_since_when_and_why(
    api: Client, room: EngineCapacity, monkeypatch: pytest.MonkeyPatch
):
    registry = type("Registry", (), {"available": lambda self, timeout_seconds: False})
    monkeypatch.setattr(health, "model_registry", registry)
    admission.pause(actor="olga", why="The disk is replaced.")
    told = api.get(ADMISSION).json()
    assert told["paused"]["by"] == "olga" and told["paused"]["why"] == "The disk is replaced."
    assert told["draining"] is None and told["left"] == {"jobs": 0, "batches": 0, "builds": 0}
    for path in ("/mlops/ready", "/mlops/status"):
        assert api.get(path).json()["admission"]["paused"] == told["paused"], path


def test_a_platform_that_pauses_is_ready(api: Client):
    admission.pause(actor="olga")
    parts = api.get("/mlops/ready").json()["parts"]
    assert "admission" not in parts


@pytest.mark.parametrize("group", GROUPS)
def test_an_operator_pauses_and_resumes_and_nobody_below(api: Client, group: str):
    headers = logged_in(group)
    may = group in ("operator", "administrator")
    answer = put(api, {"paused": True, "draining": True, "why": "w"}, **headers)
    assert answer.status_code == (200 if may else 403)
    assert Hold.objects.count() == (2 if may else 0)
    if may:
        assert Hold.objects.filter(by="olga", why="w").count() == 2
        after = put(api, {"paused": False}, **headers).json()
        assert after["paused"] is None and after["draining"]["by"] == "olga"


def test_whoever_does_not_log_in_may_not_pause(api: Client):
    answer = put(api, {"paused": True})
    assert answer.status_code == 401 and "WWW-Authenticate" in answer.headers
    assert not Hold.objects.exists()


def test_a_browser_that_is_logged_in_may_not_be_made_to_pause_by_another_page(db: Any):
    user = User.objects.create_superuser("olga", password="x")
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert put(browser, {"paused": True}).status_code == 403


@pytest.mark.parametrize("body", [{"paused": "perhaps"}, {"paused": True, "why": "x" * 301}])
def test_what_cannot_be_understood_pauses_nothing(api: Client, body: dict[str, Any]):
    assert put(api, body, **logged_in("operator")).status_code == 400
    assert not Hold.objects.exists()


def test_the_shell_pauses_shows_and_resumes():
    def said(*words: str) -> str:
        out = StringIO()
        call_command("admission", *words, stdout=out)
        return out.getvalue()

    assert said("show").startswith("open: ")
    assert ": The disk is replaced." in said("pause", "--why", "The disk is replaced.")
    assert Hold.objects.get().by
    assert said("resume").startswith("open: ")


def test_the_shell_waits_until_nothing_is_left(
    room: EngineCapacity, monkeypatch: pytest.MonkeyPatch
):
    a_job()
    claimed()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        Job.objects.all().delete()

    monkeypatch.setattr("mlops_site.management.commands.admission.time.sleep", wait)
    out = StringIO()
    call_command("admission", "drain", "--wait", stdout=out)
    assert len(waits) == 1
    assert out.getvalue().endswith("Nothing is left that has an end.\n")
