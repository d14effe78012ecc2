"""A waiting container: what a script sees in it, what is in it before, what it refuses."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import seccomp
from sandbox.container import Limits
from sandbox.engine import Engine, EngineError, EngineUnavailable, SandboxMismatch
from sandbox.environments import Environment, EnvironmentStore
from sandbox.output import began_at
from tests.docker.conforming import LEFT_BY_IMPORTS, SCRIPTS
from tests.fixtures.engine import JobRunner
from tests.fixtures.waiting import (
    IMPORTS,
    MEMORY_MB,
    VARIABLES,
    Waiting,
    alike,
    run_plainly,
    same_in_both,
    waiting_in,
)


class Pool:
    """Makes them ahead, two at a time."""

    def __init__(self, make: Callable[[], Waiting]) -> None:
        self._make = make
        self._ahead: list[Waiting] = []

    def take(self) -> Waiting:
        self.fill()
        taken = self._ahead.pop(0)
        self.fill()
        return taken.until_ready()

    def fill(self) -> None:
        while len(self._ahead) < 2:
            self._ahead.append(self._make())


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
    jobs = JobRunner(engine, runner_image, networks, installation_id)

    def make() -> Waiting:
        return waiting_in(
            jobs,
            tmp_path_factory.mktemp("waiting"),
            environment=learning_environment,
            platform=environments.platform_folder(),
        )

    yield Pool(make)
    for container in jobs.made:
        engine.remove(container)


@pytest.fixture
def plainly(jobs: JobRunner, learning_environment, environments, tmp_path):
    """Runs a script in a container of its own: exit code and output."""

    def run(source: str) -> tuple[int, str]:
        return run_plainly(
            jobs,
            tmp_path,
            source,
            environment=learning_environment,
            platform=environments.platform_folder(),
        )

    return run


def test_many_scripts_cannot_tell_it_from_a_fresh_container(
    runtime: str, jobs: JobRunner, learning_environment, environments, tmp_path
):
    jobs.runtime = runtime
    same_in_both(
        jobs,
        tmp_path,
        environment=learning_environment,
        platform=environments.platform_folder(),
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_cannot_tell_it_from_a_fresh_container(name, pool: Pool, plainly):
    fresh = alike(plainly(SCRIPTS[name]))
    assert alike(pool.take().run(SCRIPTS[name], **VARIABLES)) == fresh


def test_all_that_differs_is_what_the_same_imports_leave_in_a_fresh_python(pool: Pool, plainly):
    code, waited = pool.take().run(LEFT_BY_IMPORTS, **VARIABLES)
    assert code == 0, waited
    fresh = plainly(IMPORTS + LEFT_BY_IMPORTS)
    assert alike((code, waited))[1].splitlines() == alike(fresh)[1].splitlines()


FRESH = "import sys\nprint('mlflow' in sys.modules)\n"


def test_a_script_finds_the_imports_done(pool: Pool):
    assert pool.take().run(FRESH) == (0, "True\n")


@pytest.mark.parametrize(
    "variable",
    ["SKLEARN_ASSUME_FINITE", "MLFLOW_LOGGING_LEVEL", "OMP_NUM_THREADS", "TZ", "PYTHONHASHSEED"],
)
def test_a_variable_that_is_read_before_a_script_runs_gets_it_a_fresh_python(variable, pool: Pool):
    value = {"TZ": "Asia/Tokyo", "MLFLOW_LOGGING_LEVEL": "DEBUG"}.get(variable, "7")
    script = FRESH + f"import os, time\nprint(os.environ[{variable!r}], time.tzname[0])\n"
    zone = "JST" if variable == "TZ" else "UTC"
    code, output = pool.take().run(script, **{variable: value})
    assert (code, output) in [(0, f"False\n{value} {zone}\n"), (0, f"False\n{value} Asia\n")]


def test_a_script_with_the_name_of_a_module_gets_a_fresh_python(pool: Pool):
    script = FRESH + "import pandas\nprint(pandas.__file__)\n"
    assert pool.take().run(script, name="pandas.py") == (
        0,
        "False\nFalse\n/job/pandas.py\n/job/pandas.py\n",
    )


def test_before_its_job_nothing_secret_is_in_it_and_it_is_as_locked_down(
    engine: Engine, pool: Pool, networks
):
    waiting = pool.take()
    inspect = engine.api.inspect_container(waiting.id)
    host = inspect["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges", seccomp.OPTION]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == networks.jobs
    assert inspect["Config"]["User"] == "runner"
    assert {m["Destination"]: m["RW"] for m in inspect["Mounts"]} == {
        "/job": False,
        "/env": False,
        "/platform": False,
        "/data": False,
    }
    assert list(waiting.folder.iterdir()) == []
    told = json.dumps(inspect).encode()
    processes = [row[1] for row in engine.api.top(waiting.id)["Processes"]]
    assert len(processes) == 2
    for pid in processes:
        told += (
            Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    for word in (b"PASSWORD", b"USERNAME", b"RUN_CONTEXT", b"EXPERIMENT"):
        assert word not in told
    assert waiting.run("print(1)\n", MLFLOW_TRACKING_PASSWORD="hidden") == (0, "1\n")
    assert "hidden" not in json.dumps(engine.api.inspect_container(waiting.id))


# Printed before they end: whoever has no thread left cannot wait for the interpreter's own.
MANY_THREADS = """\
import os, threading
stop, started = threading.Event(), 0
try:
    while started < 1000:
        threading.Thread(target=stop.wait, daemon=True).start()
        started += 1
except RuntimeError:
    pass
print(len(os.listdir('/proc/self/task')), flush=True)
os._exit(0)
"""


def test_changed_limits_are_what_the_engine_reports_and_hold(engine: Engine, pool: Pool):
    waiting = pool.take()
    wanted = waiting.spec.with_limits(Limits(memory_mb=1536, cpus=0.5, pids=96, scratch_mb=32))
    with pytest.raises(SandboxMismatch):
        engine.checked_readback(waiting.id, wanted)
    engine.change_limits(waiting.id, wanted)
    readback = engine.checked_readback(waiting.id, wanted)
    assert readback["Memory"] == readback["MemorySwap"] == 1536 * 1024**2
    assert (readback["CpuPeriod"], readback["CpuQuota"]) == (100_000, 50_000)
    assert readback["PidsLimit"] == 96
    code, output = waiting.run(MANY_THREADS)
    # More than it was made with, and not more than it has now.
    assert code == 0
    assert 64 < int(output) <= 96


def test_limits_that_somebody_changed_behind_our_back_are_refused(engine: Engine, pool: Pool):
    waiting = pool.take()
    engine.api.update_container(waiting.id, mem_limit=2 * 1024**3, memswap_limit=4 * 1024**3)
    with pytest.raises(SandboxMismatch, match="Memory"):
        engine.checked_readback(waiting.id, waiting.spec)


def test_scratch_and_network_make_another_shape_and_limits_do_not(pool: Pool):
    spec = pool.take().spec
    more = spec.with_limits(Limits(memory_mb=4096, cpus=2.0, pids=64, scratch_mb=32))
    assert more.shape == spec.shape
    larger = spec.with_limits(Limits(memory_mb=MEMORY_MB, cpus=1.0, pids=64, scratch_mb=64))
    assert larger.shape != spec.shape
    assert dataclasses.replace(spec, network="another").shape != spec.shape


def test_the_deadline_counts_from_the_order(engine: Engine, pool: Pool):
    waiting = pool.take()
    began = waiting.hand_in("import threading\nthreading.Event().wait()\n", seconds=2)
    code, _ = waiting.ended()
    state = engine.state(waiting.id)
    assert code == 124
    assert 2 <= state.finished_at.timestamp() - began < 30
    assert began > state.started_at.timestamp()
    assert began_at([engine.read_logs(waiting.id)]) == pytest.approx(began)


def test_an_order_that_is_cut_off_runs_nothing(engine: Engine, pool: Pool):
    waiting = pool.take()
    cut = (1000).to_bytes(4, "big") + b"HOME=/scratch"
    with engine.attach(waiting.id) as given:
        given.give(cut)
        assert given.answer(b"!began ", timeout_seconds=20) is None
    assert waiting.ended() == (227, "")
    assert began_at([engine.read_logs(waiting.id)]) is None


def test_there_is_no_second_order(engine: Engine, pool: Pool):
    waiting = pool.take()
    waiting.hand_in("import threading\nprint('up', flush=True)\nthreading.Event().wait()\n")
    with contextlib.suppress(EngineError, EngineUnavailable), engine.attach(waiting.id) as given:
        given.give(b"x" * 100)
        assert given.answer(b"!began ", timeout_seconds=1) is None
    assert engine.state(waiting.id).running
    assert engine.read_logs(waiting.id).count(b"!began ") == 1


def test_a_waiting_container_uses_no_processor(engine: Engine, pool: Pool):
    waiting = pool.take()
    before = engine.usage(waiting.id).cpu_seconds
    threading.Event().wait(3)
    assert engine.usage(waiting.id).cpu_seconds - before < 0.015
