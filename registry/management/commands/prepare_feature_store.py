"""`manage.py prepare_feature_store`: makes the example feature repository, once.

Customer features for the churn example: made-up but always the same numbers, DuckDB as the offline
store (Feast's `file` store drops rows), SQLite online, materialised, so that both can be asked.
"""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from registry.features import DONE_FILE, ONLINE_FILE, REGISTRY_FILE, feature_store_status

CUSTOMERS = 200
DAYS = 30
SEED = 20251023
FEATURE_STORE = f"""\
project: churn
provider: local
registry:
  registry_type: sql
  path: sqlite:///{{repo}}/{REGISTRY_FILE}
  serve_features_while_materializing: true
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: {{repo}}/{ONLINE_FILE}
entity_key_serialization_version: 3
"""


class Command(BaseCommand):
    help = "Makes the example feature repository unless it is there already."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        repo = Path(settings.FEAST_REPO_DIR)
        if (repo / DONE_FILE).exists():
            self.stdout.write("The feature store is ready.")
            return
        prepare(repo)
        views = feature_store_status(repo).feature_views
        self.stdout.write(f"Made the feature store: {views} feature views.")


def prepare(repo: Path) -> None:
    """Writes the data and the configuration, applies the definitions, materialises them."""
    # 5 to 6 seconds, and only at the first start of an installation.
    from feast import FeatureStore  # noqa: PLC0415

    from registry.churn_features import definitions  # noqa: PLC0415

    repo.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(FEATURE_STORE.format(repo=repo))
    newest = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    write_customers(repo / "customers.parquet", newest=newest)
    store = FeatureStore(repo_path=str(repo))
    store.apply(definitions(repo))
    store.materialize(newest - timedelta(days=DAYS + 1), newest + timedelta(seconds=1))
    (repo / DONE_FILE).touch()


def write_customers(path: Path, *, newest: datetime) -> None:
    """One row a customer and day: age, income, tenure, and what the customer did lately."""
    import pandas  # noqa: PLC0415 - half a second, for this command only

    numbers = random.Random(SEED)  # noqa: S311 - made-up data, not a secret
    rows = []
    for customer in range(1, CUSTOMERS + 1):
        age, income = numbers.randint(18, 80), numbers.randint(18_000, 160_000)
        joined = numbers.randint(0, 12)
        for day in range(DAYS):
            rows.append(
                {
                    "customer_id": customer,
                    "event_timestamp": newest - timedelta(days=DAYS - 1 - day),
                    "age": age,
                    "income": float(income),
                    "tenure": joined + day // 30,
                    "logins_7d": numbers.randint(0, 40),
                    "support_tickets_30d": numbers.randint(0, 5),
                    "monthly_spend": round(numbers.uniform(5, 250), 2),
                }
            )
    # Microseconds: DuckDB does not cast nanoseconds with a time zone.
    pandas.DataFrame(rows).to_parquet(path, index=False, coerce_timestamps="us")
