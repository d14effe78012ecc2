"""The child that works with Feast: what it tells of a real store, and what it brings into it."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.feature_store import services
from registry.feature_store.description import Description, Field, Freshness, Kind, Part
from registry.management.commands.prepare_feature_store import write_customers
from registry.models import Materialization
from tests.feast.test_features_in_requests import CHANGES

pytestmark = pytest.mark.django_db
NO_FILE = "A file that the feature store names is not there, or cannot be read."


@pytest.fixture
def own_repo(repo: Path, tmp_path: Path, settings: Any) -> Path:
    """A copy that may be changed; its registry still names the files of the first one."""
    copy = tmp_path / "feast"
    shutil.copytree(repo, copy)
    configuration = copy / "feature_store.yaml"
    configuration.write_text(configuration.read_text().replace(str(repo), str(copy)))
    settings.FEAST_REPO_DIR = copy
    return copy


def described() -> Description:
    services.ask_description()
    services.describe()
    look = services.look()
    assert look.error == "" and look.asked_at is None, "what it describes is what is there"
    assert look.description is not None
    return look.description


def materialized(*names: str) -> Materialization:
    made = services.ask_materialization(names, actor="olga")
    services.materialize(made.pk)
    made.refresh_from_db()
    return made


def test_a_store_is_described_and_filled(own_repo: Path, repo: Path) -> None:
    """With what changes in it: Feast starts anew for each, so this is one story."""
    known = described()
    the_example_is_told(known)
    newest = newer_events_come_online(repo)
    views_of_every_kind_are_told_apart(own_repo)
    one_that_fails_is_told(repo, newest)


def the_example_is_told(known: Description) -> None:
    assert (known.project, known.online_store, known.offline_store) == ("churn", "sqlite", "duckdb")
    assert known.serves_meanwhile
    assert known.entities["customer"].join_key == "customer_id"
    profile = known.views["customer_profile"]
    assert profile.keys == [Field("customer_id", "INT64")]
    assert [feature.name for feature in profile.features] == ["age", "income", "tenure"]
    assert [feature.type for feature in profile.features] == ["Int64", "Float64", "Int64"]
    assert [source.detail for source in profile.sources] == ["customers.parquet"]
    assert profile.ttl == timedelta(days=90) and profile.is_fillable
    assert profile.freshness(datetime.now(UTC)) is Freshness.FRESH
    churn = known.services["churn"]
    assert churn.keys == [Field("customer_id", "INT64")] and churn.problem == ""
    assert churn.parts[0] == Part(
        "customer_profile", "customer_profile", ["age", "income", "tenure"]
    )


def newer_events_come_online(repo: Path) -> datetime:
    """The moment of the newest one."""
    newest = datetime.now(UTC).replace(microsecond=0)
    write_customers(repo / "customers.parquet", newest=newest)
    made = materialized("customer_profile")
    assert (made.state, made.error) == (Materialization.State.COMPLETED, "")
    look = services.look()
    assert look.description is not None and look.asked_at is None, "it was described meanwhile"
    views = look.description.views
    assert views["customer_profile"].newest_event == newest
    filled, told = views["customer_profile"].filled_until, made.outcome[0]["until"]
    assert filled is not None
    assert abs(filled - datetime.fromisoformat(told)) < timedelta(seconds=1)
    before = views["customer_activity"].newest_event
    assert before is not None and before < newest, "nobody asked for this one"
    return newest


def views_of_every_kind_are_told_apart(own_repo: Path) -> None:
    script = own_repo / "changes.py"
    script.write_text(CHANGES)
    command = [sys.executable, "-W", "ignore", str(script), str(own_repo)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert services.look().asked_at is not None, "the registry's file has changed"
    known = described()
    computed = known.views["computed"]
    assert (computed.kind, computed.is_fillable) == (Kind.ON_DEMAND, False)
    assert {key.name for key in computed.keys} == {"user_id", "more"}
    assert {source.kind for source in computed.sources} == {"feature view", "request"}
    assert known.views["users"].features[-1].type == "Array(String)"
    pairs = known.services["pairs"]
    assert {key.name for key in pairs.keys} == {"left_id", "right_id"}
    assert [part.called for part in pairs.parts] == ["left", "right"]
    # Its TTL is a second by now.
    assert known.views["customer_profile"].freshness(datetime.now(UTC)) is Freshness.STALE
    with pytest.raises(services.FeatureViewsRejected):
        services.ask_materialization(["computed"], actor="")


def one_that_fails_is_told(repo: Path, newest: datetime) -> None:
    customers = repo / "customers.parquet"
    customers.unlink()
    made = materialized("customer_activity", "users")
    assert made.state == Materialization.State.FAILED
    assert made.error == "1 of 2 feature views could not be materialised."
    activity, users = made.outcome
    assert activity["detail"] == NO_FILE and users["detail"] == ""
    write_customers(customers, newest=newest)
