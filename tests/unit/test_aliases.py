"""Aliases: set through us or behind our back, with a history, and one step back."""

from datetime import UTC, datetime

import pytest
from rest_framework.test import APIClient

from inference.models import AliasChange, ModelServer
from inference.services import aliases
from registry.mlflow_client import ModelVersion, ModelVersionNotFound

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/mlops/models/churn/aliases/champion"


class Registry:
    """MLflow with three versions of one model."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}

    def aliases(self, name: str) -> dict[str, str]:
        return dict(self.named)

    def version(self, name: str, version: str) -> ModelVersion:
        if version not in "123":
            raise ModelVersionNotFound(name, version)
        now = datetime.now(UTC)
        return ModelVersion(name, version, "r", "m", "READY", "", f"models:/m-{version}", now, now)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.named[alias] = version

    def delete_alias(self, name: str, alias: str) -> None:
        del self.named[alias]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    stub = Registry()
    monkeypatch.setattr(aliases, "model_registry", lambda: stub)
    return stub


@pytest.fixture
def client() -> APIClient:
    return APIClient(SERVER_NAME="localhost")


def put(client: APIClient, version: str) -> int:
    return client.put(PATH, {"version": version}, format="json").status_code


def test_an_alias_remembers_what_it_named_and_its_server_is_started(
    registry: Registry, client: APIClient
) -> None:
    assert (put(client, "1"), put(client, "2")) == (200, 200)
    shown = client.get(PATH).json()
    assert shown["version"] == "2"
    history = [(change["version"], change["previous"]) for change in shown["history"]]
    assert history == [("2", "1"), ("1", None)]
    assert shown["history"][0]["actor"] == "127.0.0.1"
    assert set(ModelServer.objects.values_list("version", flat=True)) == {"1", "2"}


def test_one_call_rolls_back_and_another_one_forward(registry: Registry, client: APIClient) -> None:
    put(client, "1")
    put(client, "2")
    assert client.post(f"{PATH}/rollback").json()["version"] == "1"
    assert client.post(f"{PATH}/rollback").json()["version"] == "2"
    assert registry.named == {"champion": "2"}


def test_why_an_alias_was_moved_is_kept_in_its_history(
    registry: Registry, client: APIClient
) -> None:
    put(client, "1")
    client.put(PATH, {"version": "2", "reason": " Better on the holdout. "}, format="json")
    rolled = client.post(f"{PATH}/rollback", {"reason": "False alarms."}, format="json").json()
    reasons = [change["reason"] for change in rolled["history"]]
    assert reasons == ["False alarms.", "Better on the holdout.", ""]
    notes = AliasChange.objects.values_list("note", flat=True)
    assert list(notes) == reasons, "the console shows the same"


@pytest.mark.parametrize("reason", ["x" * 201, None, ["why"], "a\x00b"])
def test_a_reason_that_cannot_be_kept_moves_nothing(
    registry: Registry, client: APIClient, reason: object
) -> None:
    put(client, "1")
    put(client, "2")
    asked = {"version": "1", "reason": reason}
    for answer in (
        client.put(PATH, asked, format="json"),
        client.post(f"{PATH}/rollback", {"reason": reason}, format="json"),
    ):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "reason")
    assert registry.named == {"champion": "2"}


def test_without_a_version_before_there_is_no_way_back(
    registry: Registry, client: APIClient
) -> None:
    put(client, "1")
    answer = client.post(f"{PATH}/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_roll_back_to")


def test_a_change_in_mlflow_itself_becomes_part_of_the_history(
    registry: Registry, client: APIClient
) -> None:
    put(client, "1")
    registry.named["champion"] = "3"
    assert client.get(PATH).json()["history"][0]["how"] == "seen"
    assert client.post(f"{PATH}/rollback").json()["version"] == "1"


def test_an_alias_that_is_taken_away_keeps_its_history(
    registry: Registry, client: APIClient
) -> None:
    put(client, "1")
    assert client.delete(PATH).status_code == 204
    assert client.get(PATH).status_code == 404
    assert AliasChange.objects.filter(alias="champion").count() == 2
    assert client.delete(PATH).status_code == 404


@pytest.mark.parametrize("alias", ["latest", "7", "a b", "a.b"])
def test_a_name_that_would_be_read_as_something_else_is_refused(
    registry: Registry, client: APIClient, alias: str
) -> None:
    path = f"/mlops/models/churn/aliases/{alias}"
    answer = client.put(path, {"version": "1"}, format="json")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "alias")


def test_an_unknown_version_is_a_404(registry: Registry, client: APIClient) -> None:
    assert put(client, "9") == 404
    assert registry.named == {}
