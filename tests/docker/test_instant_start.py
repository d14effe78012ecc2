"""A waiting container: what a script sees in it, what is in it before, what it takes and refuses."""

import contextlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.trial import wait_for
from sandbox.engine import Engine, EngineError, SandboxMismatch
from sandbox.environments import Environment, EnvironmentStore
from sandbox.output import began_at, printed_bytes
from sandbox.spec import Limits, SandboxSpec, job_environment, waiting_spec
from tests.docker.conforming import SCRIPTS
from tests.fixtures.engine import LOG_BYTES, JobRunner

MEMORY_MB = 1024
READY_SECONDS = 90
END_SECONDS = 90
VARIABLES = {
    "GIVEN": "a value",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    "MLFLOW_TRACKING_PASSWORD": "a secret",
}
MADE_WITH = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "OMP_NUM_THREADS": "1"}


class Waiting:
    """One waiting container, and the folder that its script goes to."""

    def __init__(self, engine: Engine, spec: SandboxSpec, folder: Path) -> None:
        self.engine = engine
        self.spec = spec
        self.folder = folder
        self.id = engine.create(spec)
        engine.start(self.id)

    def until_ready(self) -> "Waiting":
        def is_ready() -> bool:
            return b"!ready" in self.engine.read_logs(self.id)

        wait_for(is_ready, seconds=READY_SECONDS, what="the imports")
        return self

    def run(self, source: str, *, name: str = "script.py", seconds: float = 60, **variables: str):
        """Exit code and output."""
        self.hand_in(source, name=name, seconds=seconds, **variables)
        return self.ended()

    def hand_in(self, source: str, *, name: str = "script.py", seconds: float = 60, **variables):
        (self.folder / name).write_text(source)
        (self.folder / name).chmod(0o644)
        order = {
            "path": f"/job/{name}",
            "variables": job_environment({**MADE_WITH, **variables}),
            "seconds": seconds,
            "grace_seconds": 2,
            "log_bytes": LOG_BYTES,
            "log_hard_bytes": 1024 * LOG_BYTES,
        }
        data = json.dumps(order).encode()
        data = len(data).to_bytes(4, "big") + data
        told = self.engine.hand_in(self.id, data, answer=b"!began ", timeout_seconds=20)
        assert told is not None
        return float(told)

    def ended(self) -> tuple[int, str]:
        output = printed_bytes(self.engine.follow_logs(self.id)).decode(errors="replace")
        return self.engine.wait(self.id, timeout_seconds=END_SECONDS), output


class Pool:
    """Makes them ahead, two at a time, and removes all of them at the end."""

    def __init__(self, engine: Engine, make) -> None:
        self._engine = engine
        self._make = make
        self._ahead: list[Waiting] = []
        self.made: list[Waiting] = []

    def take(self) -> Waiting:
        self.fill()
        taken = self._ahead.pop(0)
        self.fill()
        return taken.until_ready()

    def fill(self) -> None:
        while len(self._ahead) < 2:
            self._ahead.append(self._make())
            self.made.append(self._ahead[-1])


@pytest.fixture(scope="module")
def learning_environment(environments: EnvironmentStore) -> Environment:
    return environments.build(["scikit-learn"], output=lambda data: None)


@pytest.fixture(scope="module")
def pool(
    engine,
    runner_image,
    networks,
    installation_id,
    environments,
    learning_environment,
    tmp_path_factory,
) -> Iterator[Pool]:
    def make() -> Waiting:
        folder = tmp_path_factory.mktemp("waiting")
        for name in ("job", "data"):
            (folder / name).mkdir()
        for each in (folder, folder / "job", folder / "data"):
            each.chmod(0o755)
        spec = waiting_spec(
            name=f"mlops-{installation_id}-waiting-{secrets.token_hex(4)}",
            image=runner_image,
            script_folder=folder / "job",
            environment_folder=learning_environment.path,
            platform_folder=environments.platform_folder(),
            data_folder=folder / "data",
            variables=MADE_WITH,
            network=networks.jobs,
            limits=Limits(memory_mb=MEMORY_MB, cpus=1.0, pids=64, scratch_mb=32),
            seconds_max=120,
            log_bytes=LOG_BYTES,
            labels={"mlops.installation": installation_id},
        )
        return Waiting(engine, spec, folder / "job")

    found = Pool(engine, make)
    yield found
    for waiting in found.made:
        engine.remove(waiting.id)


@pytest.fixture
def plainly(jobs: JobRunner, learning_environment, environments, tmp_path):
    """Runs a script in a container of its own: exit code and output."""

    def run(source: str, **variables: str) -> tuple[int, str]:
        spec = jobs.spec(
            tmp_path,
            source,
            environment=learning_environment,
            platform=environments.platform_folder(),
            memory_mb=MEMORY_MB,
            variables={**MADE_WITH, **variables},
        )
        container = jobs.start(spec)
        output = printed_bytes(jobs.engine.follow_logs(container)).decode(errors="replace")
        return jobs.engine.wait(container, timeout_seconds=END_SECONDS), output

    return run


def alike(ended: tuple[int, str]) -> tuple[int, str]:
    """Without what differs between any two processes."""
    code, output = ended
    output = re.sub(r"0x[0-9a-f]+", "0x", output)
    return code, re.sub(r"thread \d+|started \d+", "thread", output)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_cannot_tell_it_from_a_fresh_container(name, pool: Pool, plainly):
    fresh = alike(plainly(SCRIPTS[name], **VARIABLES))
    assert alike(pool.take().run(SCRIPTS[name], **VARIABLES)) == fresh
