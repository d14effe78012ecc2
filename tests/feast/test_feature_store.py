"""The example feature repository, made by the real Feast."""

import subprocess
import sys

from registry.features import FeatureStoreStatus, feature_store_status


def test_its_feature_views_are_counted_without_feast(repo):
    assert feature_store_status(repo) == FeatureStoreStatus(available=True, feature_views=2)


def test_a_second_start_changes_nothing(repo, prepare):
    before = (repo / "customers.parquet").stat().st_mtime_ns
    assert "ready" in prepare(repo)
    assert (repo / "customers.parquet").stat().st_mtime_ns == before


def test_customers_have_features_online(repo):
    script = (
        "from feast import FeatureStore\n"
        f"store = FeatureStore(repo_path={str(repo)!r})\n"
        "service = store.get_feature_service('churn')\n"
        "rows = [{'customer_id': 1}, {'customer_id': 200}]\n"
        "print(store.get_online_features(service, rows).to_dict())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    features = eval(done.stdout.strip().splitlines()[-1])  # noqa: S307 - our own print
    assert features["customer_id"] == [1, 200]
    assert all(18 <= age <= 80 for age in features["age"])
    assert None not in features["monthly_spend"]


def test_history_keeps_every_row_that_was_asked_for(repo):
    """Feast's `file` store drops rows before the first data, and twins; DuckDB keeps them."""
    script = (
        "import pandas\n"
        "from feast import FeatureStore\n"
        f"store = FeatureStore(repo_path={str(repo)!r})\n"
        "now = pandas.Timestamp.now(tz='UTC')\n"
        "asked = pandas.DataFrame({'customer_id': [1, 1, 2, 999, 3],\n"
        "    'event_timestamp': [now, now, now, now, now - pandas.Timedelta(days=400)]})\n"
        "found = store.get_historical_features(asked, ['customer_profile:age']).to_df()\n"
        "print(len(found), int(found['age'].notna().sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "5 3"


def test_a_store_that_is_not_there_is_not_available(tmp_path):
    assert feature_store_status(tmp_path) == FeatureStoreStatus(available=False, feature_views=0)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_registry_is_not_available(tmp_path):
    (tmp_path / "registry.db").write_bytes(b"no database")
    (tmp_path / "online.db").write_bytes(b"")
    assert feature_store_status(tmp_path).available is False
