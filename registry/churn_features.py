"""The example's feature definitions; for `prepare_feature_store` only, since Feast is slow."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

TIME_TO_LIVE = timedelta(days=90)


def definitions(repo: Path) -> list[Any]:
    """An entity, two feature views over one file, and the service that the churn model asks."""
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="customers",
        path=str(repo / "customers.parquet"),
        timestamp_field="event_timestamp",
    )
    profile = FeatureView(
        name="customer_profile",
        entities=[customer],
        ttl=TIME_TO_LIVE,
        schema=[
            Field(name="age", dtype=Int64),
            Field(name="income", dtype=Float64),
            Field(name="tenure", dtype=Int64),
        ],
        source=source,
    )
    activity = FeatureView(
        name="customer_activity",
        entities=[customer],
        ttl=TIME_TO_LIVE,
        schema=[
            Field(name="logins_7d", dtype=Int64),
            Field(name="support_tickets_30d", dtype=Int64),
            Field(name="monthly_spend", dtype=Float64),
        ],
        source=source,
    )
    churn = FeatureService(name="churn", features=[profile, activity])
    return [customer, profile, activity, churn]
