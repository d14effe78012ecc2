"""A database in a file: threads of a test then wait for each other as processes do."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from training.models import EngineCapacity


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    from django.conf import settings  # noqa: PLC0415  (only when a test uses a database)

    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        folder: Path = tmp_path_factory.mktemp("db")
        database["TEST"] = {**database.get("TEST", {}), "NAME": str(folder / "test.sqlite3")}


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
