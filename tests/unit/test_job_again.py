"""Running a job again, and what can be downloaded of it."""

import json
from typing import Any

import pytest
from django.test import Client

from tests.fixtures.sent_jobs import SCRIPT, a_job, claimed, ended
from training.models import Job
from training.states import Network, Priority, Reason


def again(api: Client, job: Job, edits: Any = None) -> Any:
    path = f"/mlops/training/jobs/{job.pk}/rerun"
    body = "" if edits is None else json.dumps(edits)
    return api.post(path, body, content_type="application/json")


def made(answer: Any) -> Job:
    assert answer.status_code == 202, answer.json()
    return Job.objects.get(pk=answer.json()["job_id"])


def test_without_a_body_the_same_job_runs_again_as_one_of_its_own(api: Client):
    first = a_job(priority=Priority.HIGH, network=Network.NONE)
    answer = again(api, first)
    second = made(answer)
    assert answer["Location"] == f"/mlops/training/jobs/{second.pk}"
    assert answer.json()["rerun_of"] == str(first.pk)
    for name in (
        *("script_name", "script", "experiment_name", "model_name", "requirements"),
        *("environment", "tags", "timeout_seconds", "priority", "network"),
    ):
        assert getattr(second, name) == getattr(first, name), name
    assert second.pk != first.pk
    assert second.owner == "127.0.0.1"


def test_both_jobs_name_each_other(api: Client):
    first = a_job()
    second = made(again(api, first))
    told = api.get(f"/mlops/training/jobs/{first.pk}").json()
    assert (told["rerun_of"], told["reruns"]) == (None, [str(second.pk)])
    # Who holds the first one's ETag is told of the change.
    assert Job.objects.get(pk=first.pk).revision > first.revision
    told = api.get(f"/mlops/training/jobs/{second.pk}").json()
    assert (told["rerun_of"], told["reruns"]) == (str(first.pk), [])


def test_edits_set_replace_and_remove(api: Client):
    first = a_job(environment=(("A", "1"), ("B", "2")), tags=(("team", "growth"), ("v", "1")))
    edits = {
        "environment_vars": {"B": None, "C": "3"},
        "tags": {"v": "2"},
        "requirements": ["pandas"],
        "timeout": 120,
        "network": "none",
    }
    second = made(again(api, first, edits))
    assert second.environment == {"A": "1", "C": "3"}
    assert second.tags == {"team": "growth", "v": "2"}
    assert second.requirements == ["pandas"]
    assert second.timeout_seconds == 120
    assert second.network == "none"
    first.refresh_from_db()
    assert first.environment == {"A": "1", "B": "2"}


def test_a_rerun_has_no_more_network_than_the_operator_allows_by_now(api: Client, settings):
    first = a_job()
    settings.JOB_NETWORK = {"default": "none", "maximum": "none"}
    assert made(again(api, first)).network == "none"
    assert again(api, first, {"network": "internet"}).json()["errors"][0]["field"] == "network"


def test_a_rerun_has_the_same_python_or_another_that_is_offered(api: Client, settings):
    settings.PYTHON_IMAGES = {"3.11": "a", "3.13": "b"}
    settings.PYTHON_VERSIONS = ("3.11", "3.13")
    first = a_job(python_version="3.13")
    assert made(again(api, first)).python_version == "3.13"
    assert made(again(api, first, {"python_version": "3.11"})).python_version == "3.11"
    settings.PYTHON_VERSIONS = ("3.11",)
    refused = again(api, first)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "python_version"
    assert made(again(api, first, {"python_version": "3.11"})).python_version == "3.11"


def test_a_rerun_is_found_by_its_own_tags(api: Client):
    second = made(again(api, a_job(), {"tags": {"team": "risk"}}))
    found = api.get("/mlops/training/jobs?tag=team=risk").json()["jobs"]
    assert [job["job_id"] for job in found] == [str(second.pk)]


def test_every_edit_that_is_wrong_is_named_in_one_answer(api: Client):
    edits = {
        "environment_vars": {"MLFLOW_RUN_ID": "x", "N": 5},
        "requirements": ["--index-url=http://x"],
        "timeout": 5,
        "tags": {"mlflow.user": "x"},
        "script_content": "print(1)",
    }
    answer = again(api, a_job(), edits)
    assert answer.status_code == 400
    assert {error["field"] for error in answer.json()["errors"]} == {
        "environment_vars.MLFLOW_RUN_ID",
        "environment_vars.N",
        "requirements",
        "timeout",
        "tags.mlflow.user",
        "script_content",
    }
    assert Job.objects.count() == 1


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"\xff", b'{"tags": 5}', b"[" * 100_000])
def test_a_body_that_is_no_patch_is_refused(api: Client, body: bytes):
    path = f"/mlops/training/jobs/{a_job().pk}/rerun"
    answer = api.post(path, body, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_upload")


def test_a_form_is_refused(api: Client):
    answer = api.post(f"/mlops/training/jobs/{a_job().pk}/rerun", {"timeout": "60"})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["rerun", "cancel"])
def test_what_is_not_there_cannot_be_acted_on(api: Client, path: str):
    answer = api.post(f"/mlops/training/jobs/nothing/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_cap_holds_for_reruns_too(api: Client, settings):
    first = a_job()
    settings.JOB_CAPS = {**settings.JOB_CAPS, "queue_jobs": 1}
    answer = again(api, first)
    assert (answer.status_code, answer.json()["limit"]) == (429, "queue_jobs")


def test_a_job_that_has_ended_says_how_and_how_to_run_it_again(api: Client, room):
    a_job()
    job = ended(claimed(), Reason.TIMEOUT)
    answer = api.post(f"/mlops/training/jobs/{job.pk}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_ended")
    assert "timeout" in answer.json()["detail"]
    assert f"/mlops/training/jobs/{job.pk}/rerun" in answer.json()["hint"]


def test_the_script_comes_back_byte_for_byte_as_a_file(api: Client):
    job = a_job(script=SCRIPT + "# naïve 😀\r\n", script_name="my train.py")
    answer = api.get(f"/mlops/training/jobs/{job.pk}/script")
    assert answer.content == (SCRIPT + "# naïve 😀\r\n").encode()
    assert answer["Content-Type"] == "text/x-python; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="my train.py"'


def test_a_client_may_ask_for_the_type_that_it_gets(api: Client):
    path = f"/mlops/training/jobs/{a_job().pk}/script"
    assert api.get(path, headers={"Accept": "text/x-python"}).status_code == 200


def test_what_was_installed_is_a_requirements_file(api: Client):
    job = a_job()
    path = f"/mlops/training/jobs/{job.pk}/environment"
    answer = api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "environment_not_resolved")
    assert "not resolved yet" in answer.json()["detail"]
    Job.objects.update(environment_lock="six==1.17.0\n")
    answer = api.get(path)
    assert answer.content == b"six==1.17.0\n"
    assert answer["Content-Disposition"] == 'attachment; filename="requirements.txt"'


@pytest.mark.parametrize("path", ["script", "environment", ""])
def test_nothing_of_an_unknown_job_can_be_had(api: Client, path: str):
    assert api.get(f"/mlops/training/jobs/nothing/{path}").status_code == 404
