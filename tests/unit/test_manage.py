"""`make manage`: an operator's command sees what the installation that runs was given."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.home import LOCK_FILE
from deploy.manage import worker_environment
from deploy.report import Stop

SAYS_READY = "print('ready', flush=True); input()"


@contextmanager
def running(folder: Path, *words: str, **variables: str) -> Iterator[None]:
    """A child of this process that looks like one of the platform's."""
    (folder / "manage.py").write_text(SAYS_READY)
    child = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield
        child.communicate("\n")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / LOCK_FILE).write_text(str(os.getpid()))
    return folder


@pytest.mark.parametrize("command", ["work", "supervise"])
def test_it_finds_what_a_running_process_was_given(home: Path, tmp_path: Path, command: str):
    given = {"MLOPS_HOME": str(home), "DATABASE_URL": "postgres://u:p=1@h/d"}
    with running(tmp_path, "manage.py", command, **given):
        assert worker_environment(home).items() >= given.items()


def test_it_does_not_take_the_web_process_for_a_worker(home: Path, tmp_path: Path):
    with running(tmp_path, "-c", SAYS_READY, MLOPS_HOME=str(home)), pytest.raises(Stop):
        worker_environment(home)


def test_it_does_not_take_the_worker_of_another_installation(home: Path, tmp_path: Path):
    with running(tmp_path, "manage.py", "work", MLOPS_HOME="/elsewhere"), pytest.raises(Stop):
        worker_environment(home)


@pytest.mark.parametrize("holder", ["", "none", "4194304999"])
def test_it_says_what_to_do_when_nothing_runs(home: Path, holder: str):
    (home / LOCK_FILE).write_text(holder)
    with pytest.raises(Stop, match="make run"):
        worker_environment(home)


def test_it_says_what_to_do_when_there_is_no_such_folder(tmp_path: Path):
    with pytest.raises(Stop, match="No installation runs in .*: start it with make run"):
        worker_environment(tmp_path / "nothing")
