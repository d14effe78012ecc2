"""A script that is no Python ends before anything is built for it; whatever else goes on."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.job_world import FaultyStore, World
from training import logs, script_check, script_reader
from training.models import Job
from training.script_check import SyntaxProblem, read_script

BROKEN = "import mlflow\n\ndef train(:\n    pass\n"
SAID = (
    '  File "/job/train.py", line 3\n'
    "    def train(:\n"
    "              ^\n"
    "SyntaxError: invalid syntax\n"
)


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Its containers have our Python."""
    monkeypatch.setattr(FaultyStore, "python_tag", lambda self: sys.implementation.cache_tag)
    with World() as world:
        yield world


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was built."""
    built: list[list[str]] = []
    build = FaultyStore.build

    def noted(self: FaultyStore, requirements: list[str], **rest: object) -> object:
        built.append(requirements)
        return build(self, requirements, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FaultyStore, "build", noted)
    return built


def launched(world: World, script: str, *, requirements: tuple[str, ...] = ("numpy",)) -> Job:
    job = world.submit(script=script, requirements=requirements)
    world.launch()
    job.refresh_from_db()
    return job


# -- before a build ------------------------------------------------------------------------------
def test_a_script_that_is_no_python_ends_before_its_environment_is_built(
    world: World, builds: list[list[str]]
):
    job = launched(world, BROKEN)
    assert (job.status, job.reason, job.error) == (
        "failed",
        "syntax_error",
        "SyntaxError: invalid syntax",
    )
    assert logs.text_of(job) == SAID
    assert builds == []
    assert world.engine.running() == []


def test_what_it_says_is_what_python_says(world: World, tmp_path: Path):
    """The same end, whether the environment was there or not."""
    script = tmp_path / "train.py"
    script.write_text(BROKEN)
    said = subprocess.run([sys.executable, script], capture_output=True, text=True).stderr
    assert said.replace(str(tmp_path), "/job") == SAID


def test_a_script_that_is_python_is_built_for(world: World, builds: list[list[str]]):
    assert launched(world, "print(1)\n").status == "running"
    assert builds == [["numpy"]]


def test_where_the_environment_is_there_the_script_itself_tells(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script_check.subprocess, "run", None)
    assert launched(world, BROKEN, requirements=()).status == "running"


def test_a_grammar_that_is_not_ours_decides_itself(
    world: World, builds: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FaultyStore, "python_tag", lambda self: "cpython-399")
    assert launched(world, BROKEN).status == "running"
    assert builds


@pytest.mark.parametrize("script", ["(" * 250 + ")" * 250, "x" + ".a" * 200_000])
def test_what_cannot_be_decided_goes_on(
    world: World, builds: list[list[str]], script: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script_check, "SECONDS", 0.0)
    assert launched(world, script).status == "running"
    assert builds


# -- the reader ----------------------------------------------------------------------------------
def test_the_line_is_told_as_python_prints_it():
    problem = SyntaxProblem("SyntaxError: 'return' outside function", 2, 5, "    return 5")
    assert problem.as_python_prints_it("/job/a b.py") == textwrap.dedent(
        """\
          File "/job/a b.py", line 2
            return 5
            ^
        SyntaxError: 'return' outside function
        """
    )


@pytest.mark.parametrize("column", [None, 0, -1, 500])
def test_a_column_that_is_not_in_the_line_is_not_marked(column: int | None):
    said = SyntaxProblem("SyntaxError: no", None, column, "x").as_python_prints_it("/job/x.py")
    assert said == '  File "/job/x.py", line 1\n    x\nSyntaxError: no\n'


def test_the_reader_is_nobody_before_it_reads_and_can_start_nothing(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("Only root has rights to give up.")
    report = (
        "import os, runpy, sys\n"
        f"reader = runpy.run_path({str(script_check.READER)!r})\n"
        "reader['_bound_myself'](); reader['_give_up_rights']()\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
        "try:\n    os.fork()\nexcept OSError as error:\n    print(type(error).__name__)\n"
        "try:\n    os.setuid(0)\nexcept OSError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", report], capture_output=True, text=True
    )
    nobody = script_reader.NOBODY
    assert done.stdout.splitlines() == [
        f"({nobody}, {nobody}, {nobody}) ({nobody}, {nobody}, {nobody}) []",
        "BlockingIOError",
        "PermissionError",
    ], done.stderr


def test_an_encoding_that_only_we_cannot_load_is_no_fault_of_the_script(
    monkeypatch: pytest.MonkeyPatch,
):
    """Where the interpreter lies in somebody's own folder, nobody cannot read its modules."""
    script = b"# coding: nonsense\n"
    assert "error" in script_reader.read(script)
    monkeypatch.setattr(script_reader.os, "access", lambda *_: False)
    assert script_reader.read(script) == {"unread": True}


def test_every_encoding_of_a_script_is_read_without_rights():
    assert read_script("# coding: cp1252\nx = 1\n").problem is None
