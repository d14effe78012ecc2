"""A batch's container on a real engine, under each runtime: what comes out, and what cannot."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.batch.record import Done, Head, Rows, parts_of
from sandbox.container import Limits
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from sandbox.image.served_ends import Exit
from sandbox.spec import batch_spec

SECONDS = 240
OUTPUT_BYTES = 1024**2
LABELS = {"mlops.batch": "test"}
DESCRIPTION = """\
flavors:
  python_function:
    python_version: 3.11.2
    loader_module: batch_loader
    code: code
"""
# Answers with what it managed to do; and prints what would be a record of its own.
MODEL = """\
import os
import socket


def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "managed"


def call_out():
    socket.create_connection(("8.8.8.8", 53), timeout=5).close()


class Model:
    def predict(self, table):
        print("d bm90aGluZyBvZiBvdXJz", flush=True)
        os.system("echo 'e {\\"rows\\": 7}'")
        paths = ["/data/input.csv", "/data/more", "/model/MLmodel", "/env/x", "/opt/mlops/x"]
        found = [tried(lambda path=path: open(path, "a").close()) for path in paths]
        return [*found, tried(call_out), os.listdir("/sys/class/net")]


def _load_pyfunc(path):
    return Model()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model", "model/code", "input"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "model" / "MLmodel").write_text(DESCRIPTION)
    (tmp_path / "model" / "code" / "batch_loader.py").write_text(MODEL)
    (tmp_path / "input" / "input.csv").write_text("a\n" + "1\n" * 7)
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def container(
    runtime: str,
    engine: Engine,
    runner_image: str,
    installation_id: str,
    plain_environment: Environment,
    environments: EnvironmentStore,
    folder: Path,
) -> Iterator[str]:
    """One that has been started."""
    spec = batch_spec(
        name=f"mlops-{installation_id}-batch-{secrets.token_hex(4)}",
        image=runner_image,
        arguments=["--file", "/data/input.csv", "--output-bytes", str(OUTPUT_BYTES)],
        model_folder=folder / "model",
        input_folder=folder / "input",
        environment_folder=plain_environment.path,
        platform_folder=environments.platform_folder(),
        variables={},
        limits=Limits(memory_mb=512, cpus=1.0, pids=64, scratch_mb=32),
        runtime=runtime,
        output_bytes=OUTPUT_BYTES,
        labels={"mlops.installation": installation_id, **LABELS},
    )
    made = engine.create(spec)
    engine.start(made)
    yield made
    print(engine.read_logs(made).decode(errors="replace"))
    engine.remove(made)


def test_all_that_comes_out_of_a_batch_is_its_record(container: str, engine: Engine, folder: Path):
    assert engine.wait(container, timeout_seconds=SECONDS) == Exit.DONE
    head, rows, done = parts_of(engine.printed(container))
    assert (head, done) == (Head(inputs=None, classes=None), Done(7))
    assert isinstance(rows, Rows)
    assert "managed" not in rows.predictions
    assert rows.predictions[-1] == ["lo"]
    assert b"d bm90aGluZyBvZiBvdXJz" in engine.last_errors(container, lines=50)
    inspect = engine.api.inspect_container(container)
    assert inspect["HostConfig"]["NetworkMode"] == "none"
    assert inspect["HostConfig"]["LogConfig"]["Config"] == {"max-size": "52m", "max-file": "2"}
    assert [path.name for path in (folder / "input").iterdir()] == ["input.csv"]
