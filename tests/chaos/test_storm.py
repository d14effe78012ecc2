"""Thirty jobs while everything that can be killed is killed; `make chaos` is the long form."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from deploy.testing import remove_installation
from sandbox.engine import Engine
from sandbox.environments import Environment
from tests.chaos.__main__ import storm_inside
from tests.chaos.own_engine import can_be_made
from tests.chaos.storm import Weather, storm

SHORT = Weather(jobs=30, seed=20260131, seconds=60.0, failing=0.7)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: with its name the engine's sockets would be too long for the kernel."""
    with tempfile.TemporaryDirectory(prefix="mlops-chaos-") as made:
        # Other accounts pass through it: web and MLflow run as their own.
        Path(made).chmod(0o755)
        yield Path(made)


def test_every_job_ends_truly_whatever_is_killed(
    folder: Path, engine: Engine, installation_id: str, plain_environment: Environment
):
    """With a Docker Engine of its own, which is killed like the rest.

    Making one takes root; without it the storm is on the shared engine, which nobody may kill.
    """
    if can_be_made():
        wrong, killed = _storm_with_own_engine(folder)
        assert "dockerd" in killed
    else:
        wrong, killed = _storm_beside_others(folder, engine, f"{installation_id}-storm")
    assert wrong == []
    assert {"web", "worker", "supervisor", "mlflow"} <= set(killed)


def _storm_with_own_engine(folder: Path) -> tuple[list[str], Iterable[str]]:
    storm_inside(SHORT, folder)
    outcome = json.loads((folder / "outcome.json").read_text())
    return outcome["wrong"], outcome["killed"]


def _storm_beside_others(
    folder: Path, engine: Engine, name: str
) -> tuple[list[str], Iterable[str]]:
    try:
        outcome = storm(folder / "var", name, engine=engine, weather=SHORT)
    finally:
        remove_installation(engine, name)
    print(outcome.table())
    return outcome.wrong, outcome.killed
