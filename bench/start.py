"""`python -m bench.start`: from the accepted job to the first line of its script, and the floors.

Installations of their own: without waiting containers, with some, and with some and a Redis.
Whatever is compared is taken by turns, so that whatever else the machine does weighs on all of it.
Beside `docker run` stands the same on a network like a job's: what that takes longer is the
engine's own. The environment is known.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Bar, Figure, table
from bench.platforms import own_platform
from deploy.report import step
from deploy.servers import redis_server
from deploy.testing import ENVIRONMENTS
from deploy.trial import Platform, wait_for
from sandbox.engine import Engine, FoundContainer

REPEATS = 7
WAITING = 2
IDLE_SECONDS = 10.0
READY_SECONDS = 120.0
PACKAGES = ["scikit-learn"]
LINE = "import time\nprint('first', time.time(), flush=True)\n"
IMPORTS = "import mlflow, mlflow.sklearn, sklearn, pandas\n" + LINE
FLOOR = "docker run of the same image and environment"
NETWORK_FLOOR = "docker run, on the jobs' network"


@dataclass(frozen=True)
class Trial:
    """A platform with so many waiting containers."""

    engine: Engine
    platform: Platform
    waiting: int

    def first_line(self, script: str) -> float:
        """Seconds from the 202 to the first line."""
        if self.waiting:
            self.wait_until_ready()
        job_id = self.platform.upload(script, requirements=PACKAGES)
        accepted = time.time()
        return _printed_at(self.platform.ended(job_id)["logs"]) - accepted

    def docker_run(self, script: str, *options: str) -> float:
        """Seconds from the command to the first line."""
        command = ["docker", "run", "--rm", "-v", f"{self._environment()}:/env:ro", *options]
        command += [f"mlops-runner:{self.platform.installation_id}", "/env/bin/python", "-c"]
        started = time.time()
        done = subprocess.run([*command, script], capture_output=True, text=True, check=True)
        return _printed_at(done.stdout) - started

    def docker_run_on_network(self, script: str) -> float:
        """The same in a network of the installation's own, as a job is."""
        return self.docker_run(script, "--network", f"mlops-{self.platform.installation_id}-jobs")

    def wait_until_ready(self) -> list[FoundContainer]:
        def all_ready() -> list[FoundContainer] | None:
            found = self.containers()
            ready = [one for one in found if b"!ready" in self.engine.read_logs(one.id)]
            return found if len(ready) >= self.waiting else None

        return wait_for(all_ready, seconds=READY_SECONDS, what="waiting containers")

    def containers(self) -> list[FoundContainer]:
        """Those that wait; what a job has taken is gone when it has ended."""
        labels = {"mlops.installation": self.platform.installation_id, "mlops.kind": "waiting"}
        return [state for state in self.engine.find(labels) if state.running]

    def _environment(self) -> Path:
        job = self.platform.jobs[-1]
        lock = self.platform.get(f"/mlops/training/jobs/{job}/environment").text
        folders = (ENVIRONMENTS / "envs").iterdir()
        return next(one for one in folders if (one / "lock.txt").read_text() == lock)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; all")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of which the median counts")
    parser.add_argument("--idle", type=int, default=4, help="containers that wait for idle figures")
    options = parser.parse_args()
    if unknown := set(options.trials) - set(TRIALS):
        parser.error(f"no such trial: {', '.join(unknown)}")
    engine = Engine.connect()
    figures: list[Figure] = []
    for name in options.trials or TRIALS:
        figures += TRIALS[name](engine, options)
    print(table(figures))
    return 0 if all(figure.met is not False for figure in figures) else 1


def _plain(engine: Engine, options: argparse.Namespace) -> list[Figure]:
    with _trial(engine, waiting=0) as plain:
        return _compared("plain", LINE, plain, options.repeats, bar=1.3)


def _pool(engine: Engine, options: argparse.Namespace) -> list[Figure]:
    with _trial(engine, waiting=WAITING) as pool:
        return [
            *_compared("waiting container", LINE, pool, options.repeats, bar=0.6),
            *_compared("waiting container, imports", IMPORTS, pool, options.repeats, bar=0.12),
        ]


def _on_redis(engine: Engine, options: argparse.Namespace) -> list[Figure]:
    with _redis() as url, _trial(engine, waiting=WAITING, redis_url=url) as pool:
        return _compared("waiting container, Redis", LINE, pool, options.repeats, bar=0.25)


def _idle(engine: Engine, options: argparse.Namespace) -> list[Figure]:
    with _trial(engine, waiting=options.idle) as idle:
        return _at_rest(idle)


TRIALS = {"plain": _plain, "pool": _pool, "redis": _on_redis, "idle": _idle}


def _compared(name: str, script: str, trial: Trial, repeats: int, *, bar: float) -> list[Figure]:
    """Beside both floors; the bar is for the first."""
    step(f"{name}: {repeats} times")
    ours, plain, networked = [], [], []
    for _ in range(repeats):
        ours.append(trial.first_line(script))
        plain.append(trial.docker_run(script))
        networked.append(trial.docker_run_on_network(script))
    floors = (
        (FLOOR, plain, Bar(bar, times_floor=True)),
        (NETWORK_FLOOR, networked, None),
    )
    return [
        Figure(
            name=f"accepted to first line, {name}",
            unit="s",
            ours=statistics.median(ours),
            floor=statistics.median(floor),
            floor_is=floor_is,
            bar=judged,
            samples=tuple(ours),
            floor_samples=tuple(floor),
        )
        for floor_is, floor, judged in floors
    ]


def _at_rest(trial: Trial) -> list[Figure]:
    """Two environments, since one gets two containers at most."""
    trial.platform.run(LINE)
    found = trial.wait_until_ready()
    before = _cpu_seconds(trial, found)
    time.sleep(IDLE_SECONDS)
    used = _cpu_seconds(trial, found) - before
    memory = [trial.engine.usage(one.id) for one in found]
    megabytes = sum(usage.memory_bytes for usage in memory if usage) / 1024**2
    count = len(found)
    return [
        Figure(f"memory of {count} waiting containers", "MB", megabytes),
        Figure(
            f"processor of {count} waiting containers", "%", 100 * used / IDLE_SECONDS, bar=Bar(0.5)
        ),
    ]


def _cpu_seconds(trial: Trial, found: list[FoundContainer]) -> float:
    usages = [trial.engine.usage(one.id) for one in found]
    return sum(usage.cpu_seconds for usage in usages if usage)


@contextmanager
def _redis() -> Iterator[str]:
    """The address of one that is made for this."""
    with ExitStack() as made:
        folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="mlops-bench-")))
        yield made.enter_context(redis_server(folder / "redis")).url


@contextmanager
def _trial(engine: Engine, *, waiting: int, redis_url: str = "") -> Iterator[Trial]:
    variables = {"MLOPS_WAITING_CONTAINERS": str(waiting), "REDIS_URL": redis_url}
    with own_platform(engine, variables) as platform:
        # Builds the environment, where it is not known.
        platform.run(LINE, requirements=PACKAGES)
        yield Trial(engine=engine, platform=platform, waiting=waiting)


def _printed_at(log: str) -> float:
    line = next(line for line in log.splitlines() if line.startswith("first "))
    return float(line.split()[1])


if __name__ == "__main__":
    sys.exit(main())
