"""Joins rooms that may not know each other: a registered model is made ready to answer."""

from typing import Any

from django.dispatch import receiver

from inference.services import pool
from registry.doorbell import GATEWAY_BELL
from training.signals import model_registered


@receiver(model_registered)
def warm_the_new_version(*, model_name: str, version: str, **_: Any) -> None:
    """Starts the model server at once: the first request after training finds it ready."""
    pool.warm(model_name, version)
    GATEWAY_BELL.ring_on_commit()
