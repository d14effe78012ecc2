"""Batches over HTTP: sent, listed, cancelled, and fetched."""

import asyncio
import uuid
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from inference.batch import door, files
from inference.models import BatchPrediction
from inference.services import batch_watching, batch_work, batches
from inference.services.batch_watching import BatchWatch
from tests.unit.batches.world import (
    CSV,
    PATH,
    QUERY,
    Docker,
    a_batch,
    completed,
    launched,
    seen,
    send,
    state,
)

pytestmark = pytest.mark.django_db(transaction=True)


# -- sending --------------------------------------------------------------------------------------
def test_a_form_is_accepted_with_the_version_that_answers(api: Client) -> None:
    form = {
        "file": SimpleUploadedFile("people.csv", CSV),
        "model_name": "churn",
        "model_alias": "champion",
        "return_probabilities": "true",
        "format": "parquet",
    }
    answer = api.post(PATH, form)
    assert answer.status_code == 202, answer.content
    told = answer.json()
    assert answer["Location"] == f"{PATH}/{told['batch_id']}"
    assert (told["status"], told["position"], told["model_version"]) == ("queued", 1, "1")
    assert (told["file_name"], told["format"], told["return_probabilities"]) == (
        "people.csv",
        "parquet",
        True,
    )
    sent = files.input_file(uuid.UUID(told["batch_id"]), "csv")
    assert sent.read_bytes() == CSV
    assert oct(sent.stat().st_mode & 0o777) == "0o644"
    assert [path.name for path in files.root().iterdir()] == [told["batch_id"]]
    assert api.get(answer["Location"]).json() == told


@pytest.mark.parametrize(
    ("body", "query", "status", "field"),
    [
        (CSV, "", 400, "model_name"),
        (CSV, "?model_name=churn&typo=1", 400, "typo"),
        (CSV, f"{QUERY}&model_version=2", 400, "model_version"),
        (CSV, f"{QUERY}&model_alias=champion", 400, "model_alias"),
        (CSV, f"{QUERY}&format=xls", 400, "format"),
        (CSV, f"{QUERY}&return_probabilities=maybe", 400, "return_probabilities"),
        (b"\x1f\x8b\x08", QUERY, 400, "file"),
        (b"PK\x03\x04", QUERY, 400, "file"),
        (CSV, "?model_name=churn&model_version=9", 404, ""),
        (CSV, "?model_name=churn&model_version=nobody", 404, ""),
    ],
)
def test_what_cannot_be_predicted_is_refused_and_leaves_nothing(
    api: Client, body: bytes, query: str, status: int, field: str
) -> None:
    answer = send(api, body, query)
    assert answer.status_code == status, answer.content
    told = answer.json()
    assert [error["field"] for error in told.get("errors", [])] == ([field] if field else [])
    assert list(files.root().iterdir()) == []
    assert not BatchPrediction.objects.exists()


def test_a_form_without_its_file_or_with_another_says_which(api: Client) -> None:
    answer = api.post(PATH, {"model_name": "churn", "data": SimpleUploadedFile("a.csv", CSV)})
    assert [error["field"] for error in answer.json()["errors"]] == ["file", "data"]


def test_a_body_of_another_type_is_refused(api: Client) -> None:
    answer = api.post(PATH, {"model_name": "churn"}, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_sizes_and_numbers_have_bounds(api: Client, settings: Any) -> None:
    settings.BATCH_INPUT_MAX_BYTES = 5
    assert send(api).status_code == 413
    settings.BATCH_INPUT_MAX_BYTES = 100
    settings.BATCH_QUEUE = 1
    assert send(api).status_code == 202
    assert later(send(api)) == (429, "too_many_batches", "30")
    settings.BATCH_QUEUE, settings.BATCH_FILES_MAX_MB = 9, -1
    assert later(send(api)) == (503, "no_space", "30")
    assert len(list(files.root().iterdir())) == 1


def later(answer: Any) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["code"], answer.headers["Retry-After"]


def test_parquet_is_refused_at_once_where_the_lock_has_no_pyarrow(
    api: Client, monkeypatch: Any
) -> None:
    monkeypatch.setattr(batches, "lock_of", lambda key: "numpy==2.0 \\\n    --hash=sha256:1\n")
    answer = send(api, b"PAR1....PAR1")
    assert (answer.status_code, answer.json()["code"]) == (400, "parquet_not_possible")
    assert "pyarrow" in answer.json()["hint"]


# -- the raw door ---------------------------------------------------------------------------------
def asked(method: str, path: str, pieces: list[bytes], **headers: str) -> tuple[int, dict, bytes]:
    """As the web server asks; a body that ends early is a client that left."""
    path, _, query = path.partition("?")
    scope = {
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
        ],
        "client": ("192.0.2.1", 1),
    }
    said: list[dict[str, Any]] = []
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def receive() -> dict[str, Any]:
        if left:
            message = left.pop(0)
            message["more_body"] = bool(left) or "content_length" in headers
            return message
        if method == "POST":
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        return {}

    async def send_(message: dict[str, Any]) -> None:
        said.append(message)

    app = door.app_of(scope)
    assert app is not None
    asyncio.run(app(scope, receive, send_))
    if not said:
        return 0, {}, b""
    told = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], told, b"".join(message.get("body", b"") for message in said[1:])


def test_a_body_in_pieces_goes_to_the_disk(db: Any) -> None:
    status, headers, _ = asked(
        "POST", f"{PATH}{QUERY}", [b"age\n", b"1\n", b"2\n"], content_type="text/csv"
    )
    assert status == 202
    batch = batches.look(headers["location"].rpartition("/")[2])
    assert files.input_file(batch.pk, "csv").read_bytes() == b"age\n1\n2\n"
    assert batch.owner == "192.0.2.1"


def test_who_leaves_or_sends_too_much_leaves_nothing(settings: Any) -> None:
    left = asked(
        "POST", f"{PATH}{QUERY}", [b"age\n"], content_type="text/csv", content_length="100"
    )
    assert left[0] == 0
    settings.BATCH_INPUT_MAX_BYTES = 5
    path = f"{PATH}{QUERY}"
    assert asked("POST", path, [b"age\n", b"1\n"], content_type="text/csv")[0] == 413
    told = asked("POST", path, [], content_type="text/csv", content_length="6")
    assert told[0] == 413
    assert asked("POST", path, [], content_type="text/html")[0] == 415
    status, _, content = asked("POST", path, [b""], content_type="text/csv")
    assert (status, b"The file is empty." in content) == (400, True)
    assert list(files.root().iterdir()) == []


def test_predictions_come_as_a_file_to_keep(api: Client, docker: Docker) -> None:
    batch = completed(api, docker)
    status, headers, content = asked("GET", f"{PATH}/{batch.pk}/predictions", [])
    assert (status, content) == (200, b"prediction\n'=a\n1\n")
    assert headers["content-type"] == "text/csv; charset=utf-8"
    assert headers["content-length"] == str(len(content))
    assert headers["content-disposition"].startswith('attachment; filename="churn-1-')
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, content = asked("HEAD", f"{PATH}/{batch.pk}/predictions", [])
    assert (status, headers["content-length"], content) == (200, "17", b"")
    same = api.get(f"{PATH}/{batch.pk}/predictions")
    assert b"".join(same.streaming_content) == b"prediction\n'=a\n1\n"


def test_predictions_that_are_not_there_yet_are_a_conflict(api: Client) -> None:
    batch = a_batch(api)
    for status, _, content in (
        asked("GET", f"{PATH}/{batch.pk}/predictions", []),
        asked("GET", f"{PATH}/{uuid.uuid4()}/predictions", []),
    ):
        assert (status, b'"code":"not_completed"' in content) in ((409, True), (404, False))
    assert api.get(f"{PATH}/{batch.pk}/predictions").status_code == 409


# -- lists and cancelling -------------------------------------------------------------------------
def test_lists_come_in_pages_newest_first(api: Client) -> None:
    made = [str(a_batch(api).pk) for _ in range(3)]
    first = api.get(PATH, {"limit": 2}).json()
    second = api.get(PATH, {"limit": 2, "cursor": first["next"]}).json()
    listed = [batch["batch_id"] for page in (first, second) for batch in page["batches"]]
    assert listed == made[::-1]
    assert second["next"] is None
    assert api.get(PATH, {"status": "running"}).json()["batches"] == []


def test_a_wrong_query_is_told_as_in_the_list_of_jobs(api: Client) -> None:
    wrong = {"limit": "0", "cursor": "x", "statu": "1", "status": "y"}
    of_batches, of_jobs = api.get(PATH, wrong), api.get("/mlops/training/jobs", wrong)
    assert (of_batches.status_code, of_batches.json()["code"]) == (400, "invalid_parameters")
    told, others = (
        {e["field"]: e for e in answer.json()["errors"]} for answer in (of_batches, of_jobs)
    )
    assert set(told) == set(wrong)
    assert (
        told["status"].pop("hint") == "Send one of: queued, running, completed, failed, cancelled."
    )
    others["status"].pop("hint")
    assert told == others


def test_one_that_waits_is_cancelled_at_once_and_twice_is_harmless(api: Client) -> None:
    batch = a_batch(api)
    for _ in range(2):
        answer = api.post(f"{PATH}/{batch.pk}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert not files.input_folder(batch.pk).exists()
    assert api.post(f"{PATH}/{uuid.uuid4()}/cancel").status_code == 404


def test_one_that_runs_is_cancelled_when_its_container_is_gone(
    api: Client, docker: Docker, tasks: list[Any]
) -> None:
    batch, docker.now = launched(api), state()
    for _ in range(2):
        assert api.post(f"{PATH}/{batch.pk}/cancel").status_code == 202
    BatchWatch().tick()
    assert tasks == [(batch_watching.FINISH_TASK, batch.pk)]
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("cancelled", "cancelled")
    assert docker.removed == ["c1"]
    assert api.post(f"{PATH}/{batch.pk}/cancel").status_code == 200


def test_one_that_has_ended_cannot_be_cancelled(api: Client, docker: Docker) -> None:
    answer = api.post(f"{PATH}/{completed(api, docker).pk}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_ended")
