"""What the platform keeps of a server's compact form: whole and in bounds, or nothing at all."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference import compact_forms, model_files
from inference.models import ModelServer
from registry.mlflow_client import ModelVersion

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
Answers = dict[str, tuple[int, bytes]]


class Registry:
    """A model that brings a compact form of its own."""

    def download_model(self, version: ModelVersion, target: Path) -> None:
        (target / "MLmodel").write_text("flavors: {}\n")
        (target / model_files.OURS).mkdir()
        (target / model_files.OURS / model_files.COMPACT).write_bytes(b"forged")


@pytest.fixture
def model(settings: Any, tmp_path: Path) -> Path:
    settings.MODELS_DIR = tmp_path / "models"
    version = ModelVersion(
        name="churn",
        version="1",
        source="models:/m-1",
        run_id="r",
        status="READY",
        description="",
        model_id="m-1",
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    registry: Any = Registry()
    return model_files.model_folder(version, registry=registry)


@pytest.fixture
def server_of(db: None) -> Iterator[Callable[[Answers], ModelServer]]:
    """A ready server's row, and who answers at its address."""
    running = []

    def make(answers: Answers) -> ModelServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.headers["Authorization"] == "Bearer t"
                status, content = answers[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Not into the tests' output."""

        web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(web)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        now = timezone.now()
        return ModelServer.objects.create(
            model_name="churn",
            version="1",
            source="models:/m-1",
            status="ready",
            address=f"127.0.0.1:{web.server_port}",
            container_id="c",
            token="t",
            created_at=now,
            changed_at=now,
            ready_at=now,
        )

    yield make
    for web in running:
        web.shutdown()
        web.server_close()


def ready(**lane: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"lane": lane}).encode()


def kept(model: Path) -> dict[str, bytes]:
    folder = model / model_files.OURS
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def test_a_form_that_a_model_brings_along_is_not_taken_for_ours(model: Path) -> None:
    assert [path.name for path in model.iterdir()] == ["MLmodel"]


def test_a_form_and_its_proof_are_kept_once(
    model: Path, server_of: Callable[[Answers], ModelServer]
) -> None:
    lane = {"state": "kept", "reason": "", "proof": {"rows": 5}}
    server = server_of({"/ready": ready(**lane), "/compact": (200, b"form")})
    compact_forms.keep(server.pk)
    assert kept(model)[model_files.COMPACT] == b"form"
    assert json.loads(kept(model)[model_files.OUTCOME]) == lane
    assert model_files.outcome_file("churn", "models:/m-1", "1") is None


def test_what_came_of_a_trial_is_told_by_the_rows_of_every_server_of_the_files(
    model: Path, server_of: Callable[[Answers], ModelServer]
) -> None:
    proof = {"gain": 9.5, "rows": 5}
    lane = {"state": "kept", "reason": "Agreed.", "proof": {**proof, "other": "x"}}
    server = server_of({"/ready": ready(**lane), "/compact": (200, b"form")})
    said = {"columns": None, "lane": {"state": "trying"}}
    ModelServer.objects.update(description=said)
    same = ModelServer.objects.get()
    same.pk, same.replica = None, 2
    same.save()
    same.pk, same.replica, same.source = None, 3, "models:/m-2"
    same.save()
    compact_forms.keep(server.pk)
    told = {row.replica: row.description for row in ModelServer.objects.all()}
    kept_lane = {"state": "kept", "reason": "Agreed.", "proof": proof}
    assert told[1] == told[2] == {"columns": None, "lane": kept_lane}
    assert told[3] == said, "another version's files"


def test_a_refusal_is_kept_without_a_form(
    model: Path, server_of: Callable[[Answers], ModelServer]
) -> None:
    server = server_of({"/ready": ready(state="refused", reason="No.", proof=None)})
    compact_forms.keep(server.pk)
    assert list(kept(model)) == [model_files.OUTCOME]


@pytest.mark.parametrize(
    "answers",
    [
        {"/ready": ready(state="trying")},
        {"/ready": (200, b"garbage")},
        {"/ready": (200, b"[" * 100_000)},
        {"/ready": (500, b"")},
        {"/ready": ready(state="kept"), "/compact": (200, b"x" * 2000)},
        {"/ready": ready(state="kept"), "/compact": (404, b"")},
    ],
)
def test_what_is_unfinished_unreadable_or_too_large_leaves_nothing(
    model: Path,
    server_of: Callable[[Answers], ModelServer],
    monkeypatch: pytest.MonkeyPatch,
    answers: Answers,
) -> None:
    monkeypatch.setattr(compact_forms, "MAX_BYTES", 1000)
    compact_forms.keep(server_of(answers).pk)
    assert kept(model) == {}


def test_a_ready_server_is_asked_once_in_a_while_and_again_after_a_new_start(
    model: Path, server_of: Callable[[Answers], ModelServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(compact_forms, "async_task", lambda task, pk, save: asked.append(pk))
    server = server_of({})
    compact_forms.dispatch()
    compact_forms.dispatch()
    server.refresh_from_db()
    assert (asked, server.queued_at) == ([server.pk], None)
    ModelServer.objects.update(ready_at=timezone.now())
    compact_forms.dispatch()
    assert asked == [server.pk] * 2
