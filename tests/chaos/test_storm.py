"""Forty jobs while everything that can be killed is killed; `make chaos` is the long form."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.testing import remove_installation
from sandbox.engine import Engine
from sandbox.environments import Environment
from tests.chaos.__main__ import storm_inside
from tests.chaos.own_engine import can_be_made
from tests.chaos.storm import Weather, storm

SHORT = Weather(jobs=40, seed=20260131, seconds=80.0, failing=0.7)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: with its name the engine's sockets would be too long for the kernel."""
    with tempfile.TemporaryDirectory(prefix="mlops-chaos-") as made:
        # Other accounts pass through it: web and MLflow run as their own.
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(not can_be_made(), reason="an engine to kill needs root, dockerd and unshare")
def test_every_job_ends_truly_whatever_is_killed(folder: Path, plain_environment: Environment):
    """With a Docker Engine of its own, which is killed like the rest."""
    code = storm_inside(SHORT, folder)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert (outcome["wrong"], code) == ([], 0)
    assert {"web", "worker", "supervisor", "mlflow", "dockerd"} <= set(outcome["killed"])


@pytest.mark.skipif(can_be_made(), reason="the storm with an engine of its own shows more")
def test_every_job_ends_truly_whatever_of_ours_is_killed(
    folder: Path, engine: Engine, installation_id: str, plain_environment: Environment
):
    name = f"{installation_id}-storm"
    try:
        outcome = storm(folder / "var", name, engine=engine, weather=SHORT)
    finally:
        remove_installation(engine, name)
    print(outcome.table())
    assert not outcome.wrong
