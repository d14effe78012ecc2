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

from inference import joining, metrics, versions
from inference.gateway import Gateway
from inference.models import ModelServer
from registry.mlflow_client import ModelVersion
from registry.online.client import FeatureClient
from registry.online.frames import Feature, FeatureQuestion, Gone, NotReadable, Source
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


def run(repo: Path, story: Callable[[Ask, FeatureClient], Coroutine[Any, Any, None]]) -> None:
    """One process reads features for the gateway, and for who asks it straight."""

    async def told() -> None:
        asking = FeatureClient(repo, seconds=60, answer_bytes=1_000_000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(joining, "FeatureClient", lambda *_, **__: asking)
            await walked(asking)

    async def walked(asking: FeatureClient) -> None:
        road = Gateway()

        async def ask(document: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
            body = json.dumps({**ASKED, **document}).encode()
            status, headers, content = await road.answer(body)
            return status, headers, json.loads(content)

        try:
            await story(ask, asking)
        finally:
            await road.close()
            await asking.close()

    asyncio.run(told())


def test_by_entities_a_model_says_what_it_says_by_the_values_that_it_was_trained_on(
    row: ModelServer, trained: Trained, own_repo: Path
) -> None:
    """With what is missing, and what changes in the registry: Feast starts once for all of it."""

    async def story(ask: Ask, asking: FeatureClient) -> None:
        await same_answers(ask, trained)
        await what_is_not_there_is_named(ask)
        await what_changes_is_seen(ask, own_repo)
        await values_keep_their_form(asking)
        (own_repo / "feature_store.yaml").unlink()
        status, headers, answer = await ask({**BY_SERVICE, "feature_service": "another"})
        assert (status, answer["code"]) == (503, "features_not_ready")
        assert "retry-after" in headers

    run(own_repo, story)
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


# A service and a shorter life for what is there, and a view of every kind of value.
CHANGES = """
import sys
from datetime import timedelta
from pathlib import Path
import pandas
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.data_source import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

repo = Path(sys.argv[1])
store = FeatureStore(repo_path=str(repo))
profile = store.get_feature_view("customer_profile")
profile.ttl = timedelta(seconds=1)
now = pandas.Timestamp.now(tz="UTC").floor("s")
pandas.DataFrame({
    "user_id": ["a", "b", "c"],
    "event_timestamp": [now] * 3,
    "number": [0.1, float("nan"), float("inf")],
    "moment": [pandas.Timestamp("2025-01-01", tz="UTC"), None, None],
    "count": [2**53 + 1, 5, 7],
    "flag": [True, False, True],
    "single": pandas.Series([1.5, 2.5, 3.5], dtype="float32"),
    "tags": [["x"], ["y", "z"], []],
}).to_parquet(repo / "users.parquet", coerce_timestamps="us")
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
path = str(repo / "users.parquet")
source = FileSource(name="users", path=path, timestamp_field="event_timestamp")
kinds = {"number": Float64, "moment": UnixTimestamp, "count": Int64, "flag": Bool,
         "single": Float32, "tags": Array(String)}
users = FeatureView(name="users", entities=[user], ttl=timedelta(days=1), source=source,
                    schema=[Field(name=name, dtype=kind) for name, kind in kinds.items()])
added = RequestSource(name="added", schema=[Field(name="more", dtype=Int64)])

@on_demand_feature_view(sources=[users, added], schema=[Field(name="twice", dtype=Float64)])
def computed(inputs):
    import pandas
    return pandas.DataFrame({"twice": inputs["single"].astype("float64") * 2 + inputs["more"]})

pairs = FeatureService(name="pairs", features=[
    users[["count"]].with_name("left").with_join_key_map({"user_id": "left_id"}),
    users[["count"]].with_name("right").with_join_key_map({"user_id": "right_id"}),
])
later = FeatureService(name="made_later", features=[profile])
store.apply([profile, later, user, source, users, computed, pairs])
store.materialize(now - timedelta(days=1), now + timedelta(seconds=1), feature_views=["users"])
"""


async def what_changes_is_seen(ask: Ask, repo: Path) -> None:
    later = {"entities": {"customer_id": [1]}, "feature_service": "made_later"}
    asked = {**later, "inputs": {"monthly_spend": [1.0]}}
    assert (await ask(asked))[0] == 400
    # A file: Feast keeps the source of what a view computes.
    script = repo / "changes.py"
    script.write_text(CHANGES)
    command = [sys.executable, "-W", "ignore", str(script), str(repo)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    status, _, answer = await ask(asked)
    assert (status, answer["code"]) == (422, "features_missing")
    assert "ttl" in answer["errors"][0]["detail"]


async def values_keep_their_form(asking: FeatureClient) -> None:
    async def of(source: Source, name: str, entities: dict[str, list[Any]]) -> dict[str, Feature]:
        found = await asking.ask(FeatureQuestion(source, (name,), entities))
        return {feature.full_name.removeprefix("users__"): feature for feature in found}

    found = await of(Source.VIEWS, "users", {"user_id": ["a", "b", "c", "nobody"]})
    assert {name: feature.values for name, feature in found.items()} == {
        "number": [0.1, None, None, None],
        "moment": ["2025-01-01T00:00:00Z", None, None, None],
        "count": [2**53 + 1, 5, 7, None],
        "flag": [True, False, True, None],
        "single": [1.5, 2.5, 3.5, None],
        "tags": [["x"], ["y", "z"], [], None],
    }
    assert found["number"].gone == [(1, Gone.NULL), (2, Gone.UNUSABLE), (3, Gone.UNKNOWN)]
    pairs = await of(Source.SERVICE, "pairs", {"left_id": ["a"], "right_id": ["b"]})
    assert [each.values for each in pairs.values()] == [[2**53 + 1], [5]]
    computed = await of(Source.VIEWS, "computed", {"user_id": ["a"], "more": [1]})
    assert computed["computed__twice"].values == [4.0]
    with pytest.raises(NotReadable, match="missing"):
        await of(Source.VIEWS, "computed", {"user_id": ["a"]})
