"""What the queue calls about the feature store; each may be delivered twice."""

from registry.feature_store import services


def describe() -> None:
    """Describes it for whoever asked."""
    services.describe()


def materialize(number: int) -> None:
    """Fills its online part as an order says."""
    services.materialize(number)
