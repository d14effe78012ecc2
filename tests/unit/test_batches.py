"""Batches over HTTP and in their rows: sent, listed, cancelled, begun again, and cleared away."""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from inference import engine_room
from inference.batch import containers, door, files
from inference.batch.states import ATTEMPTS_MOST, MEANINGS, Reason, every_meaning, hint_of
from inference.failures import StartFailed
from inference.models import BatchPrediction, ModelServer
from inference.services import (
    batch_rows,
    batch_watching,
    batch_work,
    batches,
    claims,
    watching,
)
from inference.services.batch_watching import BatchWatch
from sandbox.engine import ContainerState, EngineError
from tests.fixtures.containers import container_state
from tests.unit.test_batch_record import end, head, line, rows
from tests.unit.test_gateway import Registry

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/mlops/inference/batch"
CSV = b"age,plan\n1,a\n2,b\n"
QUERY = "?model_name=churn&model_version=1"


class Docker:
    """Stands where the engine does: one container, and what it printed."""

    def __init__(self) -> None:
        self.now: ContainerState | None = None
        self.output: list[bytes] = []
        self.errors = b"last words\n"
        self.removed: list[str] = []

    def state(self, container: str) -> ContainerState | None:
        return self.now

    def printed(self, container: str) -> Iterator[bytes]:
        return iter(self.output)

    def last_printed(self, container: str, *, lines: int) -> bytes:
        return b"".join(self.output[-lines:])

    def last_errors(self, container: str, *, lines: int) -> bytes:
        return self.errors

    def remove(self, container: str) -> None:
        self.removed.append(container)
        self.now = None

    def find(self, labels: Any) -> list[ContainerState]:
        return [self.now] if self.now else []

    def ends(self, code: int, *, oom: bool = False) -> None:
        self.now = state(running=False, exit_code=code, oom_killed=oom)


def state(**fields: Any) -> ContainerState:
    return container_state(**{"id": "c1", **fields})


@pytest.fixture(autouse=True)
def _world(settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    settings.BATCHES_DIR = tmp_path / "batches"
    settings.DISK_FREE_MB = 0
    settings.MEMORY_FREE_MB = 0
    settings.BATCH_MEMORY_MB = 1
    settings.SERVER_MEMORY_MB = 1
    registry = Registry()
    registry.named["champion"] = "1"
    for module in (batches, batch_work):
        monkeypatch.setattr(module, "model_registry", lambda: registry)


@pytest.fixture
def docker(monkeypatch: Any) -> Docker:
    engine = Docker()
    monkeypatch.setattr(engine_room, "engine", lambda: engine)
    return engine


@pytest.fixture
def tasks(monkeypatch: Any) -> list[tuple[str, uuid.UUID]]:
    asked: list[tuple[str, uuid.UUID]] = []
    monkeypatch.setattr(
        batch_watching, "async_task", lambda task, key, save: asked.append((task, key))
    )
    return asked


def send(api: Client, body: bytes = CSV, query: str = QUERY) -> Any:
    return api.generic("POST", f"{PATH}{query}", body, content_type="text/csv")


def a_batch(api: Client, **fields: Any) -> BatchPrediction:
    answer = send(api)
    assert answer.status_code == 202, answer.content
    found = BatchPrediction.objects.filter(pk=answer.json()["batch_id"])
    found.update(**fields)
    return found.get()


def launched(api: Client, **fields: Any) -> BatchPrediction:
    """One whose container runs, and that nobody holds."""
    moment = timezone.now()
    made = {
        "status": "running",
        "attempts": 1,
        "container_id": "c1",
        "launched_at": moment,
        "deadline_at": moment + timedelta(hours=1),
        "started_at": moment,
    }
    return a_batch(api, **{**made, **fields})


def seen(batch: BatchPrediction) -> tuple[str, str]:
    batch.refresh_from_db()
    return batch.status, batch.reason


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


# -- ends -----------------------------------------------------------------------------------------
def completed(api: Client, docker: Docker) -> BatchPrediction:
    batch = launched(api)
    docker.ends(0)
    docker.output = [head(), rows(0, ["=a", 1]), end(2)]
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("completed", "succeeded")
    return batch


def test_what_came_is_written_and_counted_and_the_rest_goes(api: Client, docker: Docker) -> None:
    batch = completed(api, docker)
    assert (batch.rows_done, batch.rows_total, batch.output_bytes) == (2, 2, 17)
    assert docker.removed == ["c1"]
    assert [path.name for path in files.folder_of(batch.pk).iterdir()] == ["predictions.csv"]
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("completed", "succeeded")


def test_one_that_is_done_is_not_begun_again_when_its_container_stays(
    api: Client, docker: Docker, monkeypatch: Any
) -> None:
    def refuse(container: str) -> None:
        raise EngineError("busy")

    monkeypatch.setattr(docker, "remove", refuse)
    with pytest.raises(EngineError):
        completed(api, docker)
    (batch,) = BatchPrediction.objects.all()
    assert seen(batch) == ("completed", "succeeded")
    monkeypatch.undo()


REFUSED = {"status": 400, "code": "wrong_type", "detail": "row 7: bad", "errors": []}


@pytest.mark.parametrize(
    ("code", "oom", "output", "reason", "told"),
    [
        (6, False, [line("r", REFUSED)], "file_refused", "row 7: bad"),
        (6, False, [line("r", {**REFUSED, "status": 500})], "model_failed", "row 7: bad"),
        (
            6,
            False,
            [line("r", {**REFUSED, "code": "parquet_not_possible"})],
            "parquet_not_possible",
            "row 7",
        ),
        (0, False, [head(), rows(0, [1])], "output_unusable", "no table"),
        (0, False, [], "output_unusable", "no table"),
        (137, True, [], "out_of_memory", "more memory than"),
        (1, False, [], "crashed", "exit code 1"),
        (3, False, [], "model_not_loadable", "last words"),
        (5, False, [], "wrong_environment", "last words"),
    ],
)
def test_each_end_has_one_reason(
    api: Client, docker: Docker, code: int, oom: bool, output: list[bytes], reason: str, told: str
) -> None:
    batch = launched(api)
    docker.ends(code, oom=oom)
    docker.output = output
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("failed", reason)
    assert told in batch.error
    assert list(files.folder_of(batch.pk).iterdir()) == []
    assert api.get(f"{PATH}/{batch.pk}").json()["hint"]


def test_one_that_takes_too_long_is_ended(api: Client, docker: Docker, tasks: list[Any]) -> None:
    batch, docker.now = launched(api, deadline_at=timezone.now()), state()
    BatchWatch().tick()
    batch_work.finish_batch(tasks[0][1])
    assert seen(batch) == ("failed", "timeout")


# -- kills ----------------------------------------------------------------------------------------
def test_a_container_that_was_ended_from_outside_is_begun_again_but_not_for_ever(
    api: Client, docker: Docker, tasks: list[Any]
) -> None:
    batch = launched(api)
    docker.ends(137)
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("queued", "interrupted")
    assert batch.not_before is not None and files.input_file(batch.pk, "csv").exists()
    BatchWatch().tick()
    assert tasks == []
    batch = launched(api, attempts=ATTEMPTS_MOST)
    docker.ends(137)
    batch_work.finish_batch(batch.pk)
    assert seen(batch) == ("failed", "interrupted")


def test_whose_worker_is_gone_waits_again(api: Client, tasks: list[Any], monkeypatch: Any) -> None:
    batch = a_batch(api)
    assert batch_rows.claim_to_start(batch.pk) is not None
    assert batch_rows.claim_to_start(batch.pk) is None
    BatchWatch().tick()
    assert (*seen(batch), tasks) == ("running", "", [])
    monkeypatch.setattr(claims.holders, "is_gone", lambda owner: True)
    BatchWatch().tick()
    BatchWatch().tick()
    assert seen(batch) == ("queued", "worker_lost")
    monkeypatch.undo()


def test_a_worker_that_was_given_up_writes_nothing_more(api: Client) -> None:
    batch = a_batch(api)
    claim = batch_rows.claim_to_start(batch.pk)
    assert claim is not None
    BatchPrediction.objects.update(claim=uuid.uuid4())
    with pytest.raises(batch_rows.ClaimLost):
        batch_rows.write(batch.pk, claim, phase="starting")


def test_the_oldest_begin_first_and_only_so_many_run(
    api: Client, tasks: list[Any], settings: Any
) -> None:
    settings.MAX_BATCHES, settings.LONG_TASKS = 2, 3
    waiting = [a_batch(api).pk for _ in range(3)]
    for _ in range(3):
        BatchWatch().tick()
    assert tasks == [(batch_watching.START_TASK, key) for key in waiting[:2]]
    batch_watching.ask_again()
    for _ in range(3):
        BatchWatch().tick()
    assert len(tasks) == 4


def test_starts_of_batches_and_of_servers_share_the_workers_that_may_be_long_at_it(
    api: Client, tasks: list[Any], settings: Any, monkeypatch: Any
) -> None:
    settings.MAX_BATCHES, settings.LONG_TASKS = 9, 2
    starts: list[Any] = []
    monkeypatch.setattr(watching, "async_task", lambda task, key, save: starts.append(key))
    moment = timezone.now()
    for version in ("1", "2", "3"):
        ModelServer.objects.create(
            model_name="m", version=version, created_at=moment, changed_at=moment
        )
        a_batch(api)
    BatchWatch().tick()
    watching.dispatch()
    for _ in range(3):
        BatchWatch().tick()
        watching.dispatch()
    assert (len(tasks), len(starts)) == (1, 1)


def test_operators_see_batches_and_cannot_touch_them(api: Client, admin_client: Client) -> None:
    batch = a_batch(api)
    page = admin_client.get("/admin/inference/batchprediction/")
    assert str(batch.pk) in page.content.decode()
    assert (
        admin_client.get(f"/admin/inference/batchprediction/{batch.pk}/change/").status_code == 200
    )
    assert admin_client.get("/admin/inference/batchprediction/add/").status_code == 403


def test_a_start_that_fails_for_a_while_pauses_and_one_that_cannot_ends(
    api: Client, monkeypatch: Any
) -> None:
    def fails(reason: str) -> None:
        def launch(*_: Any) -> None:
            raise StartFailed(reason, "Because.")

        monkeypatch.setattr(batch_work, "_launch", launch)

    batch = a_batch(api)
    fails("registry_unavailable")
    batch_work.start_batch(batch.pk)
    assert seen(batch) == ("queued", "registry_unavailable")
    fails("model_files_missing")
    batch_work.start_batch(batch.pk)
    assert seen(batch) == ("failed", "model_files_missing")


def test_one_that_was_cancelled_while_it_was_prepared_ends(
    api: Client, docker: Docker, tasks: list[Any]
) -> None:
    batch = a_batch(api, cancel_requested_at=timezone.now())
    BatchWatch().tick()
    assert (*seen(batch), tasks) == ("cancelled", "cancelled", [])


def test_when_the_platform_stops_what_runs_waits_for_its_next_start(api: Client) -> None:
    batch = launched(api)
    assert batch_watching.give_back_all() == 1
    batch.refresh_from_db()
    assert (batch.status, batch.attempts, batch.container_id) == ("queued", 0, "")


def test_progress_is_noted_and_never_goes_back(
    api: Client, docker: Docker, tasks: list[Any]
) -> None:
    batch, docker.now = launched(api), state()
    for done in (30, 20):
        docker.output = [line("p", {"phase": "predicting", "done": done, "of": 40, "share": 0.5})]
        BatchWatch().tick()
    told = api.get(f"{PATH}/{batch.pk}").json()
    assert (told["phase"], told["rows_done"], told["rows_total"]) == ("predicting", 30, 40)
    assert tasks == []


def test_a_container_without_a_row_is_removed(api: Client, docker: Docker) -> None:
    batch = launched(api)
    docker.now = state(labels={containers.BATCH_LABEL: str(batch.pk)})
    batch_watching.reconcile()
    assert docker.removed == []
    BatchPrediction.objects.update(container_id="other")
    batch_watching.reconcile()
    assert docker.removed == ["c1"]


# -- keeping --------------------------------------------------------------------------------------
def test_old_ones_go_with_their_files(api: Client, docker: Docker) -> None:
    old, young = completed(api, docker), completed(api, docker)
    BatchPrediction.objects.filter(pk=old.pk).update(ended_at=timezone.now() - timedelta(days=8))
    batch_watching.clear_old()
    assert list(BatchPrediction.objects.values_list("pk", flat=True)) == [young.pk]
    assert [path.name for path in files.root().iterdir()] == [str(young.pk)]


def test_what_killed_processes_left_goes(monkeypatch: Any) -> None:
    (files.root() / ".upload-x").mkdir()
    files.folder_of(uuid.uuid4()).mkdir()
    batch_watching.remove_leftover_files()
    assert len(list(files.root().iterdir())) == 2
    monkeypatch.setattr("inference.batch.files.is_abandoned", lambda folder: True)
    monkeypatch.setattr(batch_watching, "TASK_PATIENCE", timedelta(seconds=-1))
    batch_watching.remove_leftover_files()
    assert list(files.root().iterdir()) == []


def test_files_of_a_model_that_a_batch_needs_are_not_cleared_away(api: Client) -> None:
    a_batch(api)
    assert not ModelServer.objects.exists()
    assert len(watching._owned_folders()) == 1


def test_an_environment_that_a_batch_has_is_in_use(api: Client) -> None:
    batch = launched(api, environment_key="k")
    assert batches.environments_in_use() == {"k": [f"the batch {batch.pk}"]}


def test_every_reason_has_words_and_the_api_lists_them(api: Client) -> None:
    assert {reason.value for reason in Reason} <= set(MEANINGS)
    told = api.get("/mlops/inference/reasons").json()["batch_reasons"]
    assert {entry["reason"] for entry in told} == set(every_meaning())
    for reason in every_meaning():
        assert "{" not in hint_of(reason, model_name="m", version="1").replace("{model_name}/v", "")
