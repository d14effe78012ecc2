"""What tests of the API need: a client, and an engine that has been measured."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from training.models import EngineCapacity


@pytest.fixture(scope="package", autouse=True)
def quick_passwords() -> Iterator[None]:
    """A third of a second each: how they are kept is Django's, and no matter of ours."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


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
