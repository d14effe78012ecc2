"""Joins rooms that may not know each other: a registered model is made ready to answer."""

from typing import Any

from django.dispatch import receiver

from inference import services as inference_services
from training.signals import model_registered


@receiver(model_registered)
def warm_the_new_version(*, model_name: str, version: str, **_: Any) -> None:
    """Starts the model server at once: the first request after training finds it ready."""
    inference_services.warm(model_name, version)
