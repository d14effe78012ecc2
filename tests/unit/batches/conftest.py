"""What tests of batches need: small bounds, a registry with one model, an engine of their own."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from inference import engine_room
from inference.services import batch_watching, batch_work, batches
from tests.unit.batches.world import Docker
from tests.unit.test_gateway import Registry


@pytest.fixture(autouse=True)
def _world(settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    settings.BATCHES_DIR = tmp_path / "batches"
    settings.DISK_FREE_MB = 0
    settings.MEMORY_FREE_MB = 0
    settings.BATCH_MEMORY_MB = 1
    settings.SERVER_MEMORY_MB = 1
    registry = Registry()
    registry.named["champion"] = "1"
    for module in (batches, batch_work):
        monkeypatch.setattr(module, "model_registry", lambda: registry)


@pytest.fixture
def docker(monkeypatch: Any) -> Docker:
    engine = Docker()
    monkeypatch.setattr(engine_room, "engine", lambda: engine)
    return engine


@pytest.fixture
def tasks(monkeypatch: Any) -> list[tuple[str, uuid.UUID]]:
    asked: list[tuple[str, uuid.UUID]] = []
    monkeypatch.setattr(
        batch_watching, "async_task", lambda task, key, save: asked.append((task, key))
    )
    return asked
