"""What the registry's API says, and how it bears an MLflow that is silent."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from registry.api.serializers import model_document
from registry.mlflow_client import ModelRegistry, ModelVersion, RegisteredModel, RegistryUnavailable
from registry.mlflow_rest import MlflowRest

NOW = datetime(2025, 10, 23, 10, 0, tzinfo=UTC)


def a_model(**changed: Any) -> RegisteredModel:
    version = ModelVersion(
        name="m",
        version="2",
        run_id="r",
        model_id="m-1",
        status="READY",
        description="of the version",
        source="models:/m-1",
        created_at=NOW,
        updated_at=NOW,
        tags={"team": "growth", "mlops.job_id": "1", "mlflow.note": "x"},
    )
    fields = {"description": "", "tags": {}, "latest_versions": (version,), **changed}
    return RegisteredModel(name="m", created_at=NOW, updated_at=NOW, **fields)


def test_what_was_sent_with_the_newest_version_is_shown_without_our_own_tags():
    document = model_document(a_model())
    assert document["description"] == "of the version"
    assert document["tags"] == {"team": "growth"}


def test_what_was_written_about_the_model_itself_wins():
    document = model_document(a_model(description="of the model", tags={"team": "risk"}))
    assert document["description"] == "of the model"
    assert document["tags"] == {"team": "risk"}


def test_a_model_without_a_version_has_an_empty_list():
    document = model_document(a_model(latest_versions=()))
    assert (document["latest_versions"], document["description"]) == ([], "")


class Silent(requests.Session):
    """A server that takes calls and answers none, until it is told that it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.asked, self.give_up = threading.Event(), threading.Event()
        self.back = False

    def request(self, *_: Any, **__: Any) -> requests.Response:
        self.calls += 1
        if self.back:
            answer = requests.Response()
            answer.status_code, answer._content = 200, b"{}"
            return answer
        self.asked.set()
        self.give_up.wait(10)
        raise requests.ReadTimeout


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Silent:
    session = Silent()
    monkeypatch.setattr(MlflowRest, "_session", lambda self: session)
    return session


def test_while_mlflow_is_silent_one_caller_waits_and_the_others_do_not(silent: Silent):
    registry = ModelRegistry(tracking_uri="http://mlflow", username="u", password="p")
    silent.give_up.set()
    with pytest.raises(RegistryUnavailable):
        registry.list_models()
    silent.give_up.clear()
    silent.asked.clear()
    waiting = threading.Thread(target=lambda: pytest.raises(RegistryUnavailable, registry.counts))
    waiting.start()
    assert silent.asked.wait(10)
    calls = silent.calls
    with pytest.raises(RegistryUnavailable):
        registry.list_models()
    assert silent.calls == calls
    silent.give_up.set()
    waiting.join()
    silent.back = True
    assert registry.list_models() == []
    assert registry.list_models() == []
