"""`python -m bench.sandbox`: what the sandbox costs a fit that only computes, and a start.

The same script, image and environment: in a job's sandbox under each runtime that the engine has,
and outside. Taken by turns, so that whatever else the machine does weighs on all of them; as many
rounds as fit into four minutes. A start is from the call to create the container to the script's
first line, beside a plain container of the same image and Python.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.figures import Bar, Figure, table
from deploy.report import step
from deploy.testing import ENVIRONMENTS, remove_installation
from sandbox.container import NO_RESOLVER, RUNC, RUNSC, Limits, SandboxSpec
from sandbox.engine import Engine
from sandbox.environments import Environment, EnvironmentStore
from sandbox.images import ensure_runner_image
from sandbox.network import Networks, ensure_networks
from sandbox.order import Order, hand_in
from sandbox.output import printed_bytes
from sandbox.spec import job_spec

SECONDS, LEAST_ROUNDS = 240, 3
ORDER_SECONDS = 60
BUILD_SECONDS = 900
FIT_SECONDS = 600
LIMITS = Limits(memory_mb=1024, cpus=1.0, pids=256, scratch_mb=64)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
FITS = 3
SCRIPT = f"""
import time
began = time.time()
import json
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
features, labels = make_classification(20_000, 30, n_informative=12, random_state=0)
fits = []
for number in range({FITS}):
    wall, cpu = time.perf_counter(), time.process_time()
    RandomForestClassifier(15, random_state=0).fit(features, labels)
    fits.append([time.perf_counter() - wall, time.process_time() - cpu])
print(json.dumps([began, fits]))
"""
FIRST_LINE = "import time; print(time.time())"


@dataclass(frozen=True)
class Fit:
    """Seconds of one fit, by the clock and of the processor."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Run:
    """Of one process: seconds from the call to the script's first line, and its fits."""

    start: float
    fits: tuple[Fit, ...]


@dataclass(frozen=True)
class Trial:
    """A script and an environment, and an installation to run them in."""

    engine: Engine
    image: str
    networks: Networks
    installation_id: str
    environment: Environment
    platform: Path
    folder: Path

    def inside(self, runtime: str) -> Run:
        called = time.time()
        container = self.engine.create(self._spec(runtime))
        try:
            self.engine.start(container)
            hand_in(self.engine, container, Order(), timeout_seconds=ORDER_SECONDS)
            self.engine.wait(container, timeout_seconds=FIT_SECONDS)
            return _run(called, printed_bytes([self.engine.read_logs(container)]).decode())
        finally:
            self.engine.remove(container)

    def plain_start(self) -> float:
        """Of a container without any of the sandbox, on a network of its own as jobs have."""
        command = ["docker", "run", "--rm", "--network", self.networks.offline]
        command += ["-v", f"{self.environment.path}:/env:ro", self.image]
        called = time.time()
        began = _said([*command, "/env/bin/python", "-c", FIRST_LINE], os.environ)
        return float(began) - called

    def outside(self) -> Run:
        """A process of the host, on the environment's own packages, where its Python is the same;
        else a container without any of the sandbox."""
        packages = next((self.environment.path / "lib").glob("python3*"))
        python = shutil.which(packages.name)
        script = self.folder / "script.py"
        if python is not None:
            path = {"PYTHONPATH": str(packages / "site-packages"), "PATH": os.environ["PATH"]}
            called = time.time()
            return _run(called, _said([python, "-u", str(script)], {**ONE_THREAD, **path}))
        command = ["docker", "run", "--rm", "--privileged", "--network", "none"]
        command += ["-v", f"{self.environment.path}:/env:ro", "-v", f"{self.folder}:/job:ro"]
        command += [word for name in ONE_THREAD for word in ("-e", f"{name}=1")]
        called = time.time()
        return _run(
            called, _said([*command, self.image, "/env/bin/python", "/job/script.py"], os.environ)
        )

    def _spec(self, runtime: str) -> SandboxSpec:
        return job_spec(
            name=f"mlops-{self.installation_id}-job-{secrets.token_hex(4)}",
            image=self.image,
            script_folder=self.folder,
            script_name="script.py",
            environment_folder=self.environment.path,
            platform_folder=self.platform,
            data_folder=self.folder,
            variables=ONE_THREAD,
            network=self.networks.offline,
            limits=LIMITS,
            runtime=runtime,
            resolvers=[NO_RESOLVER],
            deadline_seconds=FIT_SECONDS,
            grace_seconds=1,
            log_bytes=1024 * 1024,
            log_hard_bytes=1024 * 1024,
            labels={"mlops.installation": self.installation_id},
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="after which no round begins")
    options = parser.parse_args()
    engine = Engine.connect()
    runtimes = [name for name in (RUNC, RUNSC) if name in engine.runtimes()]
    with _trial(engine) as trial:
        runs: dict[str, list[Run]] = {name: [] for name in ("", *runtimes)}
        starts: list[float] = []
        until = time.monotonic() + options.seconds
        while len(starts) < LEAST_ROUNDS or time.monotonic() < until:
            step(f"Round {len(starts) + 1}: outside, and under {', '.join(runtimes)}")
            starts.append(trial.plain_start())
            for name, kept in runs.items():
                kept.append(trial.inside(name) if name else trial.outside())
    floor = _fits(runs[""])
    figures = [one for name in runtimes for one in _figures(name, _fits(runs[name]), floor)]
    figures += [_start(name, runs[name], starts) for name in runtimes]
    print(table(figures))
    return 0 if all(figure.met is not False for figure in figures) else 1


def _figures(runtime: str, ours: list[Fit], floor: list[Fit]) -> list[Figure]:
    bar = Bar(1.03, times_floor=True) if runtime == RUNC else None
    by_clock = Figure(
        name=f"a fit under {runtime}, by the clock",
        unit="s",
        ours=statistics.median(fit.wall for fit in ours),
        floor=statistics.median(fit.wall for fit in floor),
        floor_is="the same fit outside",
        bar=bar,
        samples=tuple(fit.wall for fit in ours),
        floor_samples=tuple(fit.wall for fit in floor),
    )
    of_processor = replace(
        by_clock,
        name=f"a fit under {runtime}, of the processor",
        ours=statistics.median(fit.cpu for fit in ours),
        floor=statistics.median(fit.cpu for fit in floor),
        samples=tuple(fit.cpu for fit in ours),
        floor_samples=tuple(fit.cpu for fit in floor),
    )
    return [by_clock, of_processor]


def _start(runtime: str, runs: list[Run], floor: list[float]) -> Figure:
    ours = [run.start for run in runs]
    return Figure(
        name=f"a start under {runtime}, to the script's first line",
        unit="s",
        ours=statistics.median(ours),
        floor=statistics.median(floor),
        floor_is="docker run, the same Python",
        bar=None,
        samples=tuple(ours),
        floor_samples=tuple(floor),
    )


def _fits(runs: list[Run]) -> list[Fit]:
    return [fit for run in runs for fit in run.fits]


def _run(called: float, said: str) -> Run:
    began, fits = json.loads(said.strip().splitlines()[-1])
    return Run(start=began - called, fits=tuple(Fit(wall=wall, cpu=cpu) for wall, cpu in fits))


def _said(command: list[str], variables: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(variables), capture_output=True, text=True, check=True)
    return done.stdout


@contextmanager
def _trial(engine: Engine) -> Iterator[Trial]:
    name = f"bench-{secrets.token_hex(3)}"
    try:
        image = ensure_runner_image(engine, installation_id=name, report=step).tag
        networks = ensure_networks(engine, name)
        store = EnvironmentStore(
            root=ENVIRONMENTS,
            engine=engine,
            image=image,
            network=networks.jobs,
            installation_id=name,
            build_seconds=BUILD_SECONDS,
        )
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        store.ensure_platform(output=lambda data: None)
        environment = store.build(["scikit-learn"], output=lambda data: None)
        with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
            Path(folder).chmod(0o755)
            (Path(folder) / "script.py").write_text(SCRIPT)
            yield Trial(
                engine=engine,
                image=image,
                networks=networks,
                installation_id=name,
                environment=environment,
                platform=store.platform_folder(),
                folder=Path(folder),
            )
    finally:
        remove_installation(engine, name)


if __name__ == "__main__":
    sys.exit(main())
