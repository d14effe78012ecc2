"""The example feature repository, made once by the real Feast."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.accounts import CHECKOUT


@pytest.fixture(scope="session")
def prepare() -> Callable[[Path], str]:
    """Runs the command that makes a repository in a folder, and gives what it printed."""

    def prepared(folder: Path) -> str:
        environment = {**os.environ, "MLOPS_FEAST_REPO": str(folder)}
        command = [sys.executable, "-W", "ignore", "manage.py", "prepare_feature_store"]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return prepared


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory, prepare: Callable[[Path], str]) -> Path:
    folder = tmp_path_factory.mktemp("features") / "feast"
    assert "Made the feature store: 2 feature views." in prepare(folder)
    return folder
