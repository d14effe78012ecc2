"""What tests of the API need: a client, and an engine that has been measured."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from training.models import EngineCapacity


@pytest.fixture
def api(db: Any) -> Client:
    """A client of the API; an error of ours is an answer, as it is for everybody."""
    return Client(raise_request_exception=False)


@pytest.fixture
def room(db: Any) -> EngineCapacity:
    """An engine with room for a few jobs."""
    return EngineCapacity.objects.create(
        engine="local",
        memory_mb=16_000,
        memory_free_mb=8_000,
        cpus=4,
        disk_free_mb=50_000,
        measured_at=timezone.now(),
    )
