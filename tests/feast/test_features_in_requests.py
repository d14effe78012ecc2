"""Requests that name entities: the real Feast, a real model's server, and the gateway between."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference import metrics, versions
from inference.gateway import Gateway
from inference.models import ModelServer
from registry.mlflow_client import ModelVersion
from tests.fixtures import model_server

pytestmark = pytest.mark.django_db(transaction=True)

# Two of five columns, one of them the join key itself, and in another order than the service's.
TRAINING = """
import json, sys
import mlflow.sklearn, pandas
from feast import FeatureStore
from mlflow.models import infer_signature
from sklearn.ensemble import RandomForestClassifier

store = FeatureStore(repo_path=sys.argv[1])
now = pandas.Timestamp.now(tz="UTC")
asked = pandas.DataFrame({"customer_id": range(1, 201), "event_timestamp": now})
found = store.get_historical_features(asked, store.get_feature_service("churn")).to_df()
found = found.sort_values("customer_id").reset_index(drop=True)
X = found[["monthly_spend", "customer_id", "age", "tenure"]]
model = RandomForestClassifier(10, random_state=0).fit(X, found["income"] > 90_000)
mlflow.sklearn.save_model(
    model, sys.argv[2], signature=infer_signature(X), serialization_format="cloudpickle"
)
print(json.dumps(X.to_dict(orient="list")))
"""
CUSTOMERS = [7, 3, 200, 7]
BY_SERVICE = {"entities": {"customer_id": CUSTOMERS}, "feature_service": "churn"}
ASKED = {"model_name": "churn", "model_version": "1", "return_probabilities": True}


@dataclass(frozen=True)
class Trained:
    folder: Path
    rows: dict[str, list[Any]]

    def of(self, customers: list[int]) -> dict[str, list[Any]]:
        return {name: [cells[each - 1] for each in customers] for name, cells in self.rows.items()}


@pytest.fixture(scope="module")
def trained(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained") / "model"
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, str(repo), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return Trained(folder, json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[model_server.Server]:
    started = model_server.started(trained.folder)
    try:
        model_server.until(lambda: model_server.answers_ready(started))
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


class Registry:
    """MLflow's part: it knows one version."""

    def version(self, name: str, version: str | None) -> ModelVersion:
        now = datetime.now(UTC)
        return ModelVersion(
            name=name,
            version=version or "1",
            run_id="r",
            model_id="m",
            status="READY",
            description="",
            source="models:/m-1",
            created_at=now,
            updated_at=now,
        )


@pytest.fixture
def own_repo(repo: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    copy = tmp_path / "feast"
    shutil.copytree(repo, copy)
    configuration = copy / "feature_store.yaml"
    configuration.write_text(configuration.read_text().replace(str(repo), str(copy)))
    return copy


@pytest.fixture
def row(
    server: model_server.Server, own_repo: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> ModelServer:
    monkeypatch.setattr(versions, "model_registry", Registry)
    settings.FEAST_REPO_DIR = own_repo
    # A machine that is busy with other tests.
    settings.FEATURES_SECONDS = 60
    now = timezone.now()
    return ModelServer.objects.create(
        model_name="churn",
        version="1",
        source="models:/m-1",
        status="ready",
        address=server.url.removeprefix("http://"),
        token=model_server.TOKEN,
        container_id="c",
        description=server.get("/ready").json(),
        created_at=now,
        changed_at=now,
        ready_at=now,
    )


Ask = Callable[[dict[str, Any]], Coroutine[Any, Any, tuple[int, dict[str, str], dict[str, Any]]]]


def run(story: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        road = Gateway()

        async def ask(document: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
            body = json.dumps({**ASKED, **document}).encode()
            status, headers, content = await road.answer(body)
            return status, headers, json.loads(content)

        try:
            await story(ask)
        finally:
            await road.close()

    asyncio.run(told())


def test_by_entities_a_model_says_what_it_says_by_the_values_that_it_was_trained_on(
    row: ModelServer, trained: Trained, own_repo: Path
) -> None:
    """With what is missing, and what changes in the registry: Feast starts once for all of it."""

    async def story(ask: Ask) -> None:
        await same_answers(ask, trained)
        await what_is_not_there_is_named(ask)
        await what_changes_is_seen(ask, own_repo)

    run(story)
    labels = {"model": "churn", "version": "1", "stage": "features"}
    counted = metrics.REGISTRY.get_sample_value("mlops_inference_stage_seconds_count", labels)
    assert counted is not None and counted >= 4


async def same_answers(ask: Ask, trained: Trained) -> None:
    values = trained.of(CUSTOMERS)
    _, _, by_values = await ask({"inputs": values})
    status, headers, answer = await ask({**BY_SERVICE, "return_features": True})
    assert status == 200, answer
    assert answer["predictions"] == by_values["predictions"]
    assert answer["probabilities"] == by_values["probabilities"]
    looked_up = {name: cells for name, cells in values.items() if name != "customer_id"}
    assert answer["features"] == looked_up
    assert "features;dur=" in headers["server-timing"]
    # What the client sends itself wins.
    changed = {**values, "age": [18] * len(CUSTOMERS)}
    _, _, by_changed = await ask({"inputs": changed})
    _, _, beside = await ask({**BY_SERVICE, "inputs": {"age": changed["age"]}})
    assert beside["probabilities"] == by_changed["probabilities"]
    # Views and names do as well, and records.
    for named in (
        {"feature_views": ["customer_activity", "customer_profile"]},
        {
            "features": [
                "customer_profile:tenure",
                "customer_profile:age",
                "customer_activity:monthly_spend",
            ]
        },
    ):
        records = [{"customer_id": each} for each in CUSTOMERS]
        _, _, other = await ask({"entities": records, **named})
        assert other["probabilities"] == answer["probabilities"]


async def what_is_not_there_is_named(ask: Ask) -> None:
    unknown = {"entities": {"customer_id": [1, 999]}, "feature_service": "churn"}
    status, _, answer = await ask(unknown)
    assert (status, answer["code"]) == (422, "features_missing")
    assert [error["field"] for error in answer["errors"]] == [
        "features.monthly_spend",
        "features.age",
        "features.tenure",
    ]
    assert "customer_id=999" in answer["errors"][0]["detail"]
    status, _, answer = await ask({**unknown, "missing_features": "null"})
    assert status == 200, answer
    assert answer["missing_features"][0]["entity"] == {"customer_id": 999}
    for wrong, code, said in (
        ({"feature_service": "chrn"}, "unknown_feature_service", "there is churn"),
        ({"feature_views": ["nobody"]}, "unknown_feature", "customer_activity"),
        ({"features": ["customer_profile:agee"]}, "unknown_feature", "age, income, tenure"),
    ):
        status, _, answer = await ask({"entities": {"customer_id": [1]}, **wrong})
        assert (status, answer["code"]) == (400, code)
        assert said in answer["detail"]
    for entities, code in (
        ({"customer": [1]}, "entities_mismatch"),
        ({"customer_id": ["1"]}, "wrong_type"),
        ({"customer_id": [1.5]}, "wrong_type"),
    ):
        status, _, answer = await ask({"entities": entities, "feature_service": "churn"})
        assert (status, answer["code"]) == (400, code), answer
        assert answer["errors"][0]["field"].startswith("entities.customer")


CHANGES = """
import sys
from datetime import timedelta
from feast import FeatureService, FeatureStore

store = FeatureStore(repo_path=sys.argv[1])
profile = store.get_feature_view("customer_profile")
profile.ttl = timedelta(seconds=1)
store.apply([profile, FeatureService(name="made_later", features=[profile])])
"""


async def what_changes_is_seen(ask: Ask, repo: Path) -> None:
    later = {"entities": {"customer_id": [1]}, "feature_service": "made_later"}
    asked = {**later, "inputs": {"monthly_spend": [1.0]}}
    assert (await ask(asked))[0] == 400
    command = [sys.executable, "-W", "ignore", "-c", CHANGES, str(repo)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    status, _, answer = await ask(asked)
    assert (status, answer["code"]) == (422, "features_missing")
    assert "ttl" in answer["errors"][0]["detail"]
