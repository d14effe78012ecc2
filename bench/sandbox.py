"""`python -m bench.sandbox`: what the sandbox costs a fit that needs the processor alone.

The same script, image and environment: in a job's sandbox under each runtime that the engine has,
and outside. Taken by turns, so that whatever else the machine does weighs on all of them.
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
from sandbox.output import printed_bytes
from sandbox.spec import job_spec

REPEATS = 5
BUILD_SECONDS = 900
FIT_SECONDS = 600
LIMITS = Limits(memory_mb=1024, cpus=1.0, pids=256, scratch_mb=64)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SCRIPT = """
import json, time
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
features, labels = make_classification(20_000, 30, n_informative=12, random_state=0)
wall, cpu = time.perf_counter(), time.process_time()
RandomForestClassifier(60, random_state=0).fit(features, labels)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


@dataclass(frozen=True)
class Fit:
    """Seconds of one fit, by the clock and of the processor."""

    wall: float
    cpu: float


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

    def inside(self, runtime: str) -> Fit:
        container = self.engine.create(self._spec(runtime))
        try:
            self.engine.start(container)
            self.engine.wait(container, timeout_seconds=FIT_SECONDS)
            return _fit(printed_bytes([self.engine.read_logs(container)]).decode())
        finally:
            self.engine.remove(container)

    def outside(self) -> Fit:
        """A process of the host, on the environment's own packages, where its Python is the same;
        else a container without any of the sandbox."""
        packages = next((self.environment.path / "lib").glob("python3*"))
        python = shutil.which(packages.name)
        script = self.folder / "script.py"
        if python is not None:
            path = {"PYTHONPATH": str(packages / "site-packages"), "PATH": os.environ["PATH"]}
            return _fit(_said([python, "-u", str(script)], {**ONE_THREAD, **path}))
        command = ["docker", "run", "--rm", "--privileged", "--network", "none"]
        command += ["-v", f"{self.environment.path}:/env:ro", "-v", f"{self.folder}:/job:ro"]
        command += [word for name in ONE_THREAD for word in ("-e", f"{name}=1")]
        return _fit(_said([*command, self.image, "/env/bin/python", "/job/script.py"], os.environ))

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
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of which the median counts")
    options = parser.parse_args()
    engine = Engine.connect()
    runtimes = [name for name in (RUNC, RUNSC) if name in engine.runtimes()]
    with _trial(engine) as trial:
        fits: dict[str, list[Fit]] = {name: [] for name in ("", *runtimes)}
        for number in range(options.repeats):
            step(f"Fit {number + 1} of {options.repeats}, outside and under {', '.join(runtimes)}")
            for name, kept in fits.items():
                kept.append(trial.inside(name) if name else trial.outside())
    figures = [figure for name in runtimes for figure in _figures(name, fits[name], fits[""])]
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


def _fit(said: str) -> Fit:
    wall, cpu = json.loads(said.strip().splitlines()[-1])
    return Fit(wall=wall, cpu=cpu)


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
