"""The same upload or rerun sent twice makes one job, whoever sends it and however fast."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from tests.fixtures.sent_jobs import a_submission
from training.api.idempotency import hash_of
from training.models import IdempotencyKey, Job
from training.services import submit as submitting
from training.services.submit import KeyInFlight, NoSpace, submit

BODY = {"script_name": "train.py", "script_content": "print(1)\n"}
UPLOAD = "/mlops/training/upload"


def send(api: Client, key: str | None, body: dict[str, Any] = BODY) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(UPLOAD, json.dumps(body), content_type="application/json", headers=headers)


def test_a_request_sent_again_gets_the_first_answer_and_makes_no_second_job(api: Client):
    first, second = send(api, "one"), send(api, "one")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert first["Location"] == second["Location"]
    assert "Idempotent-Replayed" not in first
    assert second["Idempotent-Replayed"] == "true"
    assert Job.objects.count() == 1


def test_the_first_answer_comes_again_when_the_job_has_gone_on(api: Client):
    first = send(api, "one")
    Job.objects.update(status="running")
    assert send(api, "one").json() == first.json()


def test_without_a_key_each_request_makes_a_job(api: Client):
    assert send(api, None).json()["job_id"] != send(api, None).json()["job_id"]


def test_another_request_under_the_same_key_is_refused(api: Client):
    send(api, "one")
    answer = send(api, "one", {**BODY, "timeout": 120})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert Job.objects.count() == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "ключ", "a\tb"])
def test_a_key_that_is_none_is_refused(api: Client, key: str):
    answer = send(api, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")
    assert Job.objects.count() == 0


def test_a_request_that_was_refused_may_be_mended_and_sent_again_under_its_key(api: Client):
    assert send(api, "one", {**BODY, "timeout": 1}).status_code == 400
    assert send(api, "one").status_code == 202


def test_a_key_whose_request_is_still_being_answered_says_wait(api: Client):
    IdempotencyKey.objects.create(
        key="one", owner="127.0.0.1", body_hash=_hash(), created_at=timezone.now()
    )
    answer = send(api, "one")
    assert (answer.status_code, answer["Retry-After"]) == (409, "1")


def test_a_key_whose_request_was_killed_is_free_after_a_minute(api: Client):
    IdempotencyKey.objects.create(
        key="one",
        owner="127.0.0.1",
        body_hash=_hash(),
        created_at=timezone.now() - timedelta(seconds=61),
    )
    assert send(api, "one").status_code == 202


def test_a_key_is_kept_for_a_day(api: Client):
    send(api, "one")
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert send(api, "one", {**BODY, "timeout": 120}).status_code == 202
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert submitting.forget_old_keys() == 1


def test_a_request_that_comes_too_late_for_its_key_makes_no_second_job(db, monkeypatch):
    """Its key was given up and belongs to somebody else's request meanwhile."""
    keep = submitting._keep

    def slow(*args: Any, **options: Any) -> Job:
        IdempotencyKey.objects.all().delete()
        return keep(*args, **options)

    monkeypatch.setattr(submitting, "_keep", slow)
    with pytest.raises(KeyInFlight):
        submit(a_submission(), client=submitting.Client("ada", "one", "hash"))
    assert Job.objects.count() == 0


def test_an_error_of_ours_frees_the_key_at_once(db, monkeypatch):
    def broken(*args: Any, **options: Any) -> Job:
        raise RuntimeError("disk")

    client = submitting.Client("ada", "one", "hash")
    with monkeypatch.context() as patched:
        patched.setattr(submitting, "_keep", broken)
        with pytest.raises(RuntimeError):
            submit(a_submission(), client=client)
    assert not submit(a_submission(), client=client).replayed


def again(api: Client, job: Any, key: str, edits: dict[str, Any] | None = None) -> Any:
    path = f"/mlops/training/jobs/{job}/rerun"
    body = json.dumps(edits) if edits else ""
    return api.post(path, body, content_type="application/json", headers={"Idempotency-Key": key})


def test_a_rerun_sent_again_gets_the_first_answer_and_makes_no_second_job(api: Client):
    job = send(api, None).json()["job_id"]
    first = again(api, job, "one", {"timeout": 120})
    Job.objects.update(status="running")
    second = again(api, job.upper(), "one", {"timeout": 120})
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert first.json()["rerun_of"] == job
    assert first["Location"] == second["Location"]
    assert "Idempotent-Replayed" not in first
    assert second["Idempotent-Replayed"] == "true"
    assert Job.objects.count() == 2


def test_a_rerun_with_other_edits_is_another_request(api: Client):
    job = send(api, None).json()["job_id"]
    again(api, job, "one")
    answer = again(api, job, "one", {"timeout": 120})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_of_one_kind_of_request_is_never_taken_for_another_kind(api: Client):
    first, other = send(api, "one").json()["job_id"], send(api, None).json()["job_id"]
    again(api, first, "two")
    for answer in (again(api, first, "one"), again(api, other, "two"), send(api, "two")):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert Job.objects.count() == 3


def test_the_same_bytes_are_another_request_when_something_else_is_asked_for():
    asked = ("upload", "rerun one", "rerun other")
    assert len({hash_of(b"{}", "application/json", asked=each) for each in asked}) == 3


def test_a_rerun_whose_first_request_is_still_being_answered_says_wait(api: Client):
    job = send(api, None).json()["job_id"]
    IdempotencyKey.objects.create(
        key="one",
        owner="127.0.0.1",
        body_hash=hash_of(b'{"timeout": 120}', "application/json", asked=f"rerun {job}"),
        created_at=timezone.now(),
    )
    answer = again(api, job, "one", {"timeout": 120})
    assert (answer.status_code, answer["Retry-After"]) == (409, "1")


def test_a_rerun_under_a_key_that_is_none_is_refused(api: Client):
    job = send(api, None).json()["job_id"]
    answer = again(api, job, "ключ")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_ten_at_once_make_one_job():
    found: list[Any] = []
    start = threading.Barrier(10)

    def one() -> None:
        client = submitting.Client("ada", "one", "hash")
        start.wait()
        try:
            found.append(submit(a_submission(), client=client).job.pk)
        except KeyInFlight as in_flight:
            found.append(in_flight)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert len({pk for pk in found if not isinstance(pk, KeyInFlight)}) == 1
    assert Job.objects.count() == 1


def test_the_same_form_sent_twice_is_the_same_request_though_its_boundary_differs():
    def form(boundary: str, value: str) -> tuple[bytes, str]:
        body = f'--{boundary}\r\nname="timeout"\r\n\r\n{value}\r\n--{boundary}--\r\n'
        return body.encode(), f"multipart/form-data; boundary={boundary}"

    def name(boundary: str, value: str) -> str:
        return hash_of(*form(boundary, value), asked="upload")

    assert name("--abc", "60") == name("--xyz", "60")
    assert name("--abc", "60") != name("--abc", "61")


def test_two_types_of_the_same_bytes_are_two_requests():
    as_json = hash_of(b"{}", "application/json", asked="upload")
    assert as_json != hash_of(b"{}", "text/plain", asked="upload")


def test_a_limit_that_is_reached_is_named(api: Client, settings):
    settings.JOB_CAPS = {**settings.JOB_CAPS, "user_jobs": 1}
    send(api, None)
    answer = send(api, None)
    assert answer.status_code == 429
    assert answer.json()["limit"] == "user_jobs"
    assert int(answer["Retry-After"]) > 0


def test_a_full_disk_is_named(api: Client, room):
    room.short_of = "disk"
    room.save()
    answer = send(api, None)
    assert (answer.status_code, answer.json()["limit"]) == (503, NoSpace.limit)
    assert int(answer["Retry-After"]) > 0


def _hash() -> str:
    return hash_of(json.dumps(BODY).encode(), "application/json", asked="upload")
