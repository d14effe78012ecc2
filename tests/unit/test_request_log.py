"""The sampled log of requests: what is written, what never is, and who may read it."""

import base64
import os
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.contrib.auth.models import User
from django.test import Client

from inference import metrics, request_files, request_log
from inference.answers import Predicted
from inference.gateway import Gateway
from inference.request_files import Kept, RequestFiles, newest, purge
from inference.request_log import RequestLog
from inference.upstream import Heard
from mlops_site import settings as read_settings
from tests.unit.test_gateway import (  # noqa: F401 - fixtures
    REQUEST,
    Container,
    Registry,
    Worker,
    ask,
    registry,
    run,
    worker,
)

pytestmark = pytest.mark.django_db(transaction=True)

SAID = orjson.dumps({"predictions": [1]})
ASKED = orjson.dumps({"model_name": "churn", "inputs": [[1]]})


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.REQUEST_LOG_DIR = tmp_path / "requests"
    return settings.REQUEST_LOG_DIR


def predicted(name: str = "churn", content: bytes = SAID) -> Predicted:
    said = {"predictions": [1], "inference_time_ms": 0.5}
    return Predicted(name, "3", said, Heard(200, content, queue_ms=0.25, model_ms=0.5), 1.0)


def counted(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"mlops_request_log_{name}_total") or 0.0


# -- what is written ------------------------------------------------------------------------------
def test_answers_and_refusals_are_written_with_all_that_tells_of_them(
    folder: Path,
    settings: Any,
    registry: Registry,  # noqa: F811
    worker: Worker,  # noqa: F811
) -> None:
    settings.REQUEST_LOG_RATES = {"*": 1.0}

    async def story(road: Gateway) -> None:
        worker.container = await Container().start()
        assert (await ask(road, REQUEST)).status == 200
        worker.container.answer = (400, {"code": "wrong_type", "detail": "No.", "errors": []})
        assert (await ask(road, REQUEST)).status == 400
        # What a client invents is nobody's model.
        assert (await ask(road, {**REQUEST, "model_name": "my_model"})).status == 404
        await worker.container.stop()

    run(story)
    refused, answered = newest(folder, model_name="churn", limit=10)
    assert newest(folder, model_name="my_model", limit=10) == []
    assert (answered["status"], answered["model_version"], answered["request_id"]) == (
        200,
        "1",
        "r-1",
    )
    assert answered["request"] == REQUEST
    assert answered["answer"]["predictions"] == [1, 0]
    assert set(answered["milliseconds"]) == {"gateway", "queue", "model", "total"}
    assert (refused["status"], refused["code"]) == (400, "wrong_type")
    assert refused["answer"]["detail"] == "No."
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_without_a_rate_there_is_nothing_to_ask(settings: Any) -> None:
    assert settings.REQUEST_LOG_RATES == {}
    assert request_log.request_log() is None
    settings.REQUEST_LOG_RATES = {"churn": 0.0}
    assert request_log.request_log() is None


def test_a_model_has_a_rate_of_its_own(folder: Path) -> None:
    log = RequestLog({"churn": 1.0, "*": 0.0})
    for name in ("churn", "other"):
        log.answered(predicted(name), ASKED, "r")
    log.close()
    assert [each["model_name"] for each in request_files._records(folder)] == ["churn"]


def test_what_is_too_long_is_noted_without_its_content(folder: Path, settings: Any) -> None:
    settings.REQUEST_LOG_RECORD_BYTES = 100
    log = RequestLog({"*": 1.0})
    log.answered(predicted(content=b"[" + b"1," * 100 + b"1]"), ASKED, "r")
    log.close()
    (record,) = newest(folder, model_name="churn", limit=1)
    assert (record["answer"], record["answer_bytes"]) == (None, 203)
    assert record["request"] == {"model_name": "churn", "inputs": [[1]]}


def test_who_answers_never_waits_for_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    append = RequestFiles.append

    def slow(files: RequestFiles, lines: Any) -> None:
        go_on.wait(20)
        append(files, lines)

    monkeypatch.setattr(RequestFiles, "append", slow)
    before = counted("dropped")
    log = RequestLog({"*": 1.0})
    for _ in range(2 * request_log.WAITING_MOST + 100):
        log.answered(predicted(), ASKED, "r")
    assert counted("dropped") >= before + 100
    go_on.set()
    log.close()
    assert len(newest(folder, model_name="churn", limit=1000)) >= request_log.WAITING_MOST


def test_a_disk_without_room_costs_records_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: RequestFiles, lines: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RequestFiles, "append", full)
    before = counted("dropped")
    log = RequestLog({"*": 1.0})
    log.answered(predicted(), ASKED, "r")
    log.close()
    assert counted("dropped") == before + 1


# -- what is kept ---------------------------------------------------------------------------------
def line(number: int, size: int = 1000) -> bytes:
    document = {"model_name": "churn", "model_version": "1", "request_id": str(number)}
    return orjson.dumps({**document, "time": f"{number:09d}", "pad": "x" * size}) + b"\n"


def test_all_of_it_stays_within_its_bound_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(1_000_000))
    monkeypatch.setattr(request_files.time, "time", lambda: 1_700_000_000 + next(moments))
    files = RequestFiles(tmp_path, Kept(total_bytes=40_000, days=7))
    for number in range(200):
        files.append([line(number)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
    kept = [record["request_id"] for record in newest(tmp_path, model_name="churn", limit=1000)]
    assert kept[0] == "199"
    assert 20 <= len(kept) < 40


def test_what_is_old_goes_though_nothing_is_written(tmp_path: Path) -> None:
    now = time.time()
    for days in (9, 6):
        begun = int((now - days * 86_400) * 1000)
        (tmp_path / f"{begun:015d}-1.jsonl").write_bytes(line(days))
    (tmp_path / "notes.txt").write_text("somebody's")
    assert purge(tmp_path, Kept(total_bytes=1_000_000, days=7)) == 1
    assert [record["request_id"] for record in newest(tmp_path, model_name="churn", limit=9)] == [
        "6"
    ]
    assert (tmp_path / "notes.txt").exists()
    assert purge(tmp_path / "none", Kept(1, 1)) == 0


def test_half_a_line_of_a_process_that_was_killed_is_left_out(tmp_path: Path) -> None:
    (tmp_path / f"{1:015d}-1.jsonl").write_bytes(line(1) + line(2)[:50])
    assert len(newest(tmp_path, model_name="churn", limit=9)) == 1


# -- who may read it ------------------------------------------------------------------------------
def basic(name: str, password: str) -> dict[str, str]:
    given = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"authorization": f"Basic {given}"}


def test_only_an_administrator_reads_it(api: Client, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{1:015d}-1.jsonl").write_bytes(line(1) + line(2))
    User.objects.create_user("boss", password="right", is_staff=True)
    User.objects.create_user("clerk", password="right")
    path = "/mlops/models/churn/requests"
    assert api.get(path).status_code == 401
    assert api.get(path, headers=basic("boss", "wrong")).status_code == 401
    assert api.get(path, headers=basic("clerk", "right")).status_code == 403
    answer = api.get(f"{path}?limit=1", headers=basic("boss", "right"))
    assert answer.status_code == 200
    assert [record["request_id"] for record in answer.json()["requests"]] == ["2"]
    found = api.get(f"{path}?request_id=1", headers=basic("boss", "right")).json()["requests"]
    assert [record["request_id"] for record in found] == ["1"]
    assert api.get(f"{path}?limit=x", headers=basic("boss", "right")).status_code == 400
    api.force_login(User.objects.get(username="boss"))
    assert api.get(path).status_code == 200


@pytest.mark.parametrize(
    ("text", "rates"),
    [("", {}), ("0.01", {"*": 0.01}), ("churn=1, *=0.5", {"churn": 1.0, "*": 0.5})],
)
def test_rates_are_read_from_one_variable(
    monkeypatch: pytest.MonkeyPatch, text: str, rates: dict[str, float]
) -> None:
    monkeypatch.setenv("MLOPS_REQUEST_LOG", text)
    assert read_settings._rates("MLOPS_REQUEST_LOG") == rates


@pytest.mark.parametrize("text", ["often", "churn=2", "churn=-1"])
def test_a_rate_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setitem(os.environ, "MLOPS_REQUEST_LOG", text)
    with pytest.raises(read_settings.ImproperlyConfigured, match=r"0\.01"):
        read_settings._rates("MLOPS_REQUEST_LOG")
