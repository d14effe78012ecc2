"""A job from the browser: the form, its dry run, sending it, and running one again with changes."""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from registry.audit import Act
from registry.models import AuditEntry
from tests.fixtures.people import somebody
from tests.fixtures.sent_jobs import a_job
from training.console import dry_run
from training.console.examples import EXAMPLES
from training.models import Job, Resolution
from training.script_check import TooBusy
from training.services import resolve
from training.states import Priority

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("room")]
NEW, SEND = reverse("admin:job_new"), reverse("admin:job_new_send")
DRY_RUN, EXAMPLE = reverse("admin:job_new_dry_run"), reverse("admin:job_run_example")
SCRIPT = "import mlflow\nmlflow.autolog()\nmlflow.sklearn.log_model(1, 'model')\n"
STATIC = Path(settings.BASE_DIR) / "mlops_site" / "static" / "mlops_site"
EVIL = '<script>alert(1)</script>"\u202e'


@pytest.fixture
def scientist() -> Client:
    return somebody("data scientist")


def name_of(client: Client) -> str:
    return User.objects.get(pk=client.session["_auth_user_id"]).get_username()


def form(**changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "key": "k1",
        "script_name": "train.py",
        "script_content": SCRIPT.replace("\n", "\r\n"),
        "experiment_name": "churn",
        "model_name": "churn_predictor",
        "requirements": "scikit-learn\r\n# a note\r\n\r\npandas",
        "network": "internet",
        "priority": "normal",
        "timeout": "300",
    }
    return {**values, **changed}


def sent(client: Client, **changed: Any) -> Job:
    answer = client.post(SEND, form(**changed))
    assert answer.status_code == 302, told(answer)
    return Job.objects.get(pk=answer["location"].split("/")[-3])


def told(answer: Any) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", answer.content.decode()))


def value_of(page: str, name: str) -> str:
    found = re.search(rf'<input[^>]* name="{name}"[^>]* value="([^"]*)"', page)
    assert found, name
    return html.unescape(found[1])


# -- the form --------------------------------------------------------------------------------------
def test_it_is_filled_with_the_contracts_example(scientist: Client):
    page = scientist.get(NEW).content.decode()
    assert EXAMPLES["quick-start"].script.splitlines()[0] in html.unescape(page)
    assert value_of(page, "experiment_name") == "my_experiment"


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_one_click_away(scientist: Client, name: str):
    page = html.unescape(scientist.get(NEW, {"example": name}).content.decode())
    assert EXAMPLES[name].script in page
    assert f'href="?example={name}" aria-current="true"' in page


def test_the_limits_are_those_that_the_api_publishes(scientist: Client):
    page = told(scientist.get(NEW))
    assert "60 to 3600 s" in page and "none here" in page
    published = scientist.get("/mlops/training/limits").json()["job"]
    memory = published["memory_mb"]
    assert f"{memory['minimum']} to {memory['maximum']} MiB" in page


def test_an_example_or_a_job_that_is_not_there_is_not_found(scientist: Client):
    for query in ({"example": "none"}, {"from": "nonsense"}):
        assert scientist.get(NEW, query).status_code == 404


def test_whoever_only_sees_gets_no_form_and_sends_nothing():
    viewer = somebody("viewer")
    assert viewer.get(NEW).status_code == 403
    for address in (SEND, DRY_RUN, EXAMPLE):
        assert viewer.post(address, form()).status_code == 403
    assert not Job.objects.exists()


def test_only_an_operator_is_offered_high_priority(scientist: Client):
    assert "<option>high" not in scientist.get(NEW).content.decode()
    assert "<option>high" in somebody("operator", name="otto").get(NEW).content.decode()


# -- sending ---------------------------------------------------------------------------------------
def test_what_was_written_becomes_a_job_of_that_person(scientist: Client):
    variables = {"variable_name": ["ROWS", ""], "variable_value": ["5", ""]}
    secrets = {"secret_name": ["PASSWORD", ""], "secret_value": ["s3cret", ""]}
    tags = {"tag_name": ["team", ""], "tag_value": ["growth", ""]}
    job = sent(scientist, **variables, **secrets, **tags)
    assert job.script == SCRIPT
    assert job.requirements == ["scikit-learn", "pandas"]
    assert job.environment == {"ROWS": "5", "PASSWORD": "s3cret"}
    assert (job.tags, job.owner) == ({"team": "growth"}, name_of(scientist))
    assert AuditEntry.objects.filter(act=Act.JOB_UPLOAD, key=str(job.pk)).exists()


def test_a_button_that_is_pressed_twice_makes_one_job(scientist: Client):
    assert sent(scientist).pk == sent(scientist).pk
    assert sent(scientist, timeout="301").pk != sent(scientist).pk


def test_what_is_wrong_stands_beside_its_field_and_nothing_typed_is_lost(scientist: Client):
    tag = {"tag_name": "a", "tag_value": "b"}
    answer = scientist.post(SEND, form(timeout="5", experiment_name="", **tag))
    assert answer.status_code == 422
    page = answer.content.decode()
    slot = re.search(r'id="slot-timeout".*?</div>', page, re.S)
    assert slot and "60" in slot[0]
    assert value_of(page, "timeout") == "5"
    assert "scikit-learn\n# a note\n\npandas" in page and 'value="b"' in page
    assert not Job.objects.exists()


def test_a_secret_never_comes_back_to_a_page(scientist: Client):
    answer = scientist.post(SEND, form(timeout="5", secret_name="P", secret_value="s3cret"))
    assert "s3cret" not in answer.content.decode()


def test_names_that_come_twice_are_refused(scientist: Client):
    twice = {"variable_name": ["A", "A"], "variable_value": ["1", "2"]}
    assert "comes more than once" in told(scientist.post(SEND, form(**twice)))


def test_nobody_but_an_operator_sends_with_high_priority(scientist: Client):
    assert scientist.post(SEND, form(priority="high")).status_code == 422
    assert sent(somebody("operator", name="otto"), priority="high").priority == Priority.HIGH


def test_hostile_text_is_text(scientist: Client):
    answer = scientist.post(
        SEND, form(script_name=EVIL, tag_name=EVIL, tag_value=EVIL, timeout=EVIL)
    )
    assert "<script>alert" not in answer.content.decode()


# -- the dry run -----------------------------------------------------------------------------------
@pytest.mark.parametrize("group", ["data scientist", "operator", "administrator"])
def test_who_may_send_jobs_finds_the_form_in_the_navigation(group: str):
    page = somebody(group).get(reverse("admin:index")).content.decode()
    assert re.search(rf'href="{NEW}" data-go="n"', page)


def test_names_of_the_newest_jobs_are_offered_but_for_hostile_ones(scientist: Client):
    a_job(experiment_name="churn_2026", model_name="plain")
    a_job(experiment_name=EVIL, model_name=EVIL)
    page = scientist.get(NEW).content.decode()
    assert '<option value="churn_2026">' in page and '<option value="plain">' in page
    assert "\u202e" not in page


def test_a_page_and_a_send_cost_few_queries(scientist: Client):
    job = a_job(owner=name_of(scientist))
    for query in ({}, {"from": str(job.pk)}):
        with CaptureQueriesContext(connection) as queries:
            scientist.get(NEW, query)
        assert len(queries) <= 15


def test_a_page_holds_nothing_that_the_policy_would_refuse(scientist: Client):
    job = a_job(script=EVIL, environment=((EVIL, "x"),), tags=((EVIL, EVIL),), experiment_name=EVIL)
    for query in ({}, {"from": str(job.pk)}):
        page = scientist.get(NEW, query).content.decode()
        assert not re.search(r"<style|style=|\son\w+=|javascript:|hx-on", page)
        assert all("src=" in tag for tag in re.findall(r"<script([^>]*)>", page))


def test_what_the_editor_is_made_of_is_what_its_note_says():
    folder = STATIC / "vendor" / "codemirror"
    note = (folder / "README.md").read_text()
    for name in ("editor.min.js", "highlight.min.js"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in note
    assert (folder / "LICENSE").is_file()
    locked = json.loads((Path(settings.BASE_DIR) / "deploy/editor/package-lock.json").read_text())
    for name, version in re.findall(r"^\| (\S+) \| ([\d.]+) \|", note, re.M):
        assert locked["packages"][f"node_modules/{name}"]["version"] == version


def test_the_quick_start_is_the_contracts_own_script():
    contract = Path(settings.BASE_DIR) / "tests" / "fixtures" / "contract_train.py"
    assert EXAMPLES["quick-start"].script == contract.read_text()


# -- sent by the page's script ---------------------------------------------------------------------
def test_with_a_script_in_the_page_what_is_refused_comes_back_in_pieces(scientist: Client):
    answer = scientist.post(SEND, form(timeout="5"), headers={"HX-Request": "true"})
    page = answer.content.decode()
    assert answer.status_code == 200 and "<html" not in page
    assert re.search(r'id="slot-timeout" hx-swap-oob="true">.*below 60', page)
    assert "to mend before it can be sent: timeout" in told(answer)


def test_with_a_script_in_the_page_what_is_accepted_leads_to_the_job(scientist: Client):
    answer = scientist.post(SEND, form(), headers={"HX-Request": "true"})
    (job,) = Job.objects.all()
    assert answer.headers["HX-Redirect"] == reverse("admin:training_job_change", args=[job.pk])


def test_a_form_that_was_sent_before_says_so_on_the_page_of_its_job(scientist: Client):
    first = scientist.post(SEND, form(), follow=True)
    again = scientist.post(SEND, form(), follow=True)
    assert "This form was sent before" not in told(first)
    assert "This form was sent before: this is the job that it made." in told(again)


def test_a_cap_that_is_reached_is_told_and_nothing_typed_is_lost(scientist: Client, settings: Any):
    settings.JOB_CAPS = {**settings.JOB_CAPS, "user_jobs": 0}
    answer = scientist.post(SEND, form(experiment_name="mine"))
    assert answer.status_code == 422 and 'value="mine"' in answer.content.decode()
    assert "0 jobs of yours are waiting or running" in told(answer)


def test_the_example_that_is_refused_says_why(scientist: Client, settings: Any):
    settings.JOB_CAPS = {**settings.JOB_CAPS, "user_jobs": 0}
    answer = scientist.post(EXAMPLE, follow=True)
    assert "no more are accepted" in told(answer) and not Job.objects.exists()


def test_a_job_that_runs_again_unchanged_keeps_its_script_byte_for_byte(scientist: Client):
    job = a_job(owner=name_of(scientist), script="import mlflow\r\nx = 1\n\r\n")
    again = sent(scientist, first=str(job.pk), script_content="import mlflow\r\nx = 1\r\n\r\n")
    assert again.script == job.script


def test_a_value_that_is_typed_takes_the_place_of_the_kept_one(scientist: Client):
    job = a_job(owner=name_of(scientist), environment=(("KEY", "old"),))
    typed = {"variable_name": ["KEY"], "variable_value": ["new"]}
    again = sent(scientist, first=str(job.pk), keep=["KEY"], **typed)
    assert again.environment == {"KEY": "new"}


def test_an_operator_may_give_kept_values_to_another_script(scientist: Client):
    job = a_job(owner="ada", environment=(("PASSWORD", "s3cret"),))
    again = sent(somebody("operator", name="otto"), first=str(job.pk), keep=["PASSWORD"])
    assert again.environment == {"PASSWORD": "s3cret"} and again.values_owner == "ada"


def test_values_stay_anothers_when_the_job_is_run_again_by_its_button(scientist: Client):
    job = a_job(owner="ada", environment=(("PASSWORD", "s3cret"),))
    scientist.post(reverse("admin:training_job_act"), {"action": "rerun", "job": [str(job.pk)]})
    mine = job.reruns.get()
    assert (mine.owner, mine.values_owner) == (name_of(scientist), "ada")
    Job.objects.filter(pk=job.pk).delete()
    answer = scientist.post(SEND, form(first=str(mine.pk), keep=["PASSWORD"]))
    assert answer.status_code == 422 and "another person's" in told(answer)


def test_a_job_of_higher_priority_runs_again_with_what_one_may_ask_for(scientist: Client):
    job = a_job(priority=Priority.HIGH)
    page = scientist.get(NEW, {"from": str(job.pk)}).content.decode()
    assert "<option selected>normal</option>" in page


def test_limits_that_are_not_allowed_any_more_are_those_of_now(scientist: Client, settings: Any):
    job = a_job(timeout=3600, python_version="3.9")
    settings.JOB_TIMEOUT_SECONDS = {"minimum": 60, "default": 300, "maximum": 600}
    page = scientist.get(NEW, {"from": str(job.pk)}).content.decode()
    assert value_of(page, "timeout") == "600" and "3.9" not in page


# -- the dry run, piece by piece -------------------------------------------------------------------
def slot(answer: Any, name: str) -> str:
    found = re.search(rf'id="slot-{name}"[^>]*>(.*?)</div>', answer.content.decode(), re.S)
    assert found
    return found[1]


def known_set(*requirements: str, **values: Any) -> None:
    asked = resolve.ask(requirements, python_version="3.11")
    assert asked is not None
    Resolution.objects.filter(pk=asked.pk).update(answered_at=timezone.now(), **values)


def test_a_package_that_does_not_exist_stands_beside_its_line_with_near_names(scientist: Client):
    detail = "Because skitlearn was not found in the package registry, it cannot be installed."
    hint = "Did you mean scikit-learn?"
    status, reason = Resolution.Status.FAILED, "requirements_not_found"
    known_set("pandas", "skitlearn", status=status, reason=reason, detail=detail, hint=hint)
    answer = scientist.post(DRY_RUN, form(requirements="# mine\npandas\nskitlearn"))
    beside = slot(answer, "requirements")
    assert "Line 3:" in beside and 'data-offer="scikit-learn" data-line="3"' in beside
    assert "Would be accepted, and fail" in told(answer)


def test_a_module_that_nothing_brings_can_be_added_by_a_button(scientist: Client):
    answer = scientist.post(DRY_RUN, form(script_content="import sklearn\n", requirements=""))
    assert 'data-offer="scikit-learn">' in slot(answer, "requirements")


def test_a_module_that_nobody_knows_is_no_offer(scientist: Client):
    """A package of that name may be anybody's."""
    answer = scientist.post(DRY_RUN, form(script_content="import my_helpers\n", requirements=""))
    beside = slot(answer, "requirements")
    assert "my_helpers" in beside and "data-offer" not in beside


def test_an_environment_that_is_there_is_told(scientist: Client):
    lock = "mlflow-skinny==3.13.0\npandas==2.2.3\nscikit-learn==1.5.2\n"
    status = Resolution.Status.RESOLVED
    known_set("scikit-learn", "pandas", status=status, lock=lock, installed=True)
    answer = scientist.post(DRY_RUN, form(script_content="import mlflow\nmlflow.autolog()\n"))
    page = told(answer)
    assert "Requirements are 3 packages" in page and "nothing is installed" in page
    assert 'data-again="0"' in answer.content.decode() and "Would be accepted" in page


def test_where_it_would_stand_in_the_queue_is_told(scientist: Client):
    a_job()
    assert "Would wait: 2nd in line." in told(scientist.post(DRY_RUN, form()))


def test_a_requirement_that_is_none_has_its_line_and_the_rest_is_checked_all_the_same(
    scientist: Client,
):
    answer = scientist.post(
        DRY_RUN, form(requirements="pandas\n-r other.txt", script_content="if:")
    )
    assert "Line 2:" in slot(answer, "requirements")
    assert "Python cannot read it" in told(answer)
    assert "It stands here once there is nothing to mend." in told(answer)


def test_a_variable_that_is_not_allowed_is_named(scientist: Client):
    variables = {"variable_name": ["PATH", ""], "variable_value": ["x", "lost?"]}
    beside = slot(scientist.post(DRY_RUN, form(**variables)), "variables")
    assert "PATH: This name is the platform&#x27;s own." in beside


def test_an_empty_secret_is_asked_for_again(scientist: Client):
    answer = scientist.post(DRY_RUN, form(secret_name="KEY", secret_value=""))
    assert "KEY: The secret has no value." in slot(answer, "variables")


def test_a_busy_platform_is_asked_again_later(scientist: Client, monkeypatch: pytest.MonkeyPatch):
    def busy(*_: Any, **__: Any) -> None:
        raise TooBusy

    monkeypatch.setattr(dry_run, "validate_at_once", busy)
    page = scientist.post(DRY_RUN, form()).content.decode()
    assert "Too many scripts are being checked" in page and 'data-again="3000"' in page


def test_hostile_text_in_a_dry_run_is_text(scientist: Client):
    hostile = {"requirements": EVIL, "variable_name": EVIL, "variable_value": EVIL, "network": EVIL}
    fields = form(script_content=f"import {EVIL}\n", experiment_name=EVIL, cpus=EVIL, **hostile)
    page = scientist.post(DRY_RUN, fields).content.decode()
    assert "<script>alert" not in page and "\u202e" not in page


def test_a_dry_run_keeps_nothing_and_says_what_would_be(scientist: Client):
    page = told(scientist.post(DRY_RUN, form()))
    assert "Every field is within its bounds" in page and "reads it" in page
    assert not Job.objects.exists()


def test_it_shows_the_same_as_a_call_without_secrets(scientist: Client):
    page = told(scientist.post(DRY_RUN, form(secret_name="P", secret_value="s3cret")))
    assert "curl -X POST http://testserver/mlops/training/upload" in page
    assert 'environment_vars=P="$P"' in page and "s3cret" not in page


def test_a_script_that_python_cannot_read_is_said_with_its_line(scientist: Client):
    page = told(scientist.post(DRY_RUN, form(script_content="x = 1\nif :\n")))
    assert "Python cannot read it" in page and "line 2" in page.lower()


def test_what_is_mended_goes_from_beside_its_field(scientist: Client):
    wrong = scientist.post(DRY_RUN, form(cpus="many")).content.decode()
    right = scientist.post(DRY_RUN, form(cpus="1")).content.decode()
    slot = r'id="slot-cpus" hx-swap-oob="true">(.*?)</div>'
    found = [re.search(slot, page, re.S) for page in (wrong, right)]
    assert found[0] and found[0][1] and found[1] and not found[1][1]


def test_requirements_are_looked_up_once_they_stay_the_same(scientist: Client):
    first = scientist.post(DRY_RUN, form()).content.decode()
    settled = re.search(r'name="settled" value="(\w+)"', first)
    assert settled and "looked up in a moment" in first
    second = scientist.post(DRY_RUN, form(settled=settled[1])).content.decode()
    assert "are being looked up" in second and 'data-again="2000"' in second


def test_a_dry_run_costs_few_queries(scientist: Client):
    with CaptureQueriesContext(connection) as queries:
        scientist.post(DRY_RUN, form())
    assert len(queries) <= 15


# -- again, with changes ---------------------------------------------------------------------------
def test_the_form_is_filled_with_the_job_and_without_its_values(scientist: Client):
    job = a_job(owner=name_of(scientist), environment=(("PASSWORD", "s3cret"),))
    page = scientist.get(NEW, {"from": str(job.pk)}).content.decode()
    assert job.script.splitlines()[0] in page and 'name="keep" value="PASSWORD" checked' in page
    assert 'value="s3cret"' not in page


def test_values_that_are_kept_go_along_and_others_are_dropped(scientist: Client):
    values = (("KEPT", "one"), ("DROPPED", "two"))
    job = a_job(owner=name_of(scientist), environment=values)
    again = sent(scientist, first=str(job.pk), keep=["KEPT"])
    assert again.environment == {"KEPT": "one"}
    assert again.rerun_of_id == job.pk


def test_values_of_others_do_not_go_to_a_script_of_ones_own(scientist: Client):
    job = a_job(owner="ada", environment=(("PASSWORD", "s3cret"),))
    answer = scientist.post(SEND, form(first=str(job.pk), keep=["PASSWORD"]))
    assert answer.status_code == 422 and "another person's" in told(answer)
    same = {"script_content": job.script, "requirements": "\n".join(job.requirements)}
    again = sent(scientist, first=str(job.pk), keep=["PASSWORD"], **same)
    assert again.environment == {"PASSWORD": "s3cret"} and again.values_owner == "ada"


def test_values_do_not_become_ones_own_by_running_the_job_again(scientist: Client):
    job = a_job(owner="ada", environment=(("PASSWORD", "s3cret"),))
    same = {"script_content": job.script, "requirements": "\n".join(job.requirements)}
    mine = sent(scientist, first=str(job.pk), keep=["PASSWORD"], **same)
    answer = scientist.post(SEND, form(first=str(mine.pk), keep=["PASSWORD"]))
    assert answer.status_code == 422


# -- first steps -----------------------------------------------------------------------------------
def test_the_example_is_run_from_an_empty_installation(scientist: Client):
    page = scientist.get(reverse("admin:index")).content.decode()
    assert EXAMPLE in page and "Run the example" in page
    answer = scientist.post(EXAMPLE)
    (job,) = Job.objects.all()
    assert answer["location"] == reverse("admin:training_job_change", args=[job.pk])
    assert job.script == EXAMPLES["quick-start"].script


def test_nothing_is_run_by_a_link(scientist: Client):
    for address in (EXAMPLE, SEND, DRY_RUN):
        assert scientist.get(address).status_code == 405
