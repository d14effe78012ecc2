"""Batches in their rows: begun, ended, begun again, and cleared away."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from inference.batch import containers, files
from inference.batch.states import ATTEMPTS_MOST, MEANINGS, Reason, every_meaning, hint_of
from inference.failures import StartFailed
from inference.models import BatchPrediction, ModelServer
from inference.services import batch_rows, batch_watching, batch_work, batches, claims, watching
from inference.services.batch_watching import BatchWatch
from sandbox.engine import EngineError
from tests.unit.batches.world import PATH, Docker, a_batch, completed, launched, seen, state
from tests.unit.test_batch_record import head, line, rows

pytestmark = pytest.mark.django_db(transaction=True)


# -- ends -----------------------------------------------------------------------------------------
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
