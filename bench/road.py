"""`make bench`: our figures beside their floors, on an installation that exists for this run only.

A floor is the same work without the platform around it, measured on the same machine in the same
minutes: the ratio holds on any machine, the amounts on this one.
"""

import argparse
import contextlib
import json
import os
import platform as machine
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.by_hand import Recipe, recipe_of
from bench.contract_job import Followed, ScriptByHand, run_job
from bench.figures import Bar, Figure, table
from bench.memory import settled_megabytes
from bench.predictions import (
    COLUMNS,
    ROWS,
    direct_asker,
    first_answer_by_hand,
    platform_asker,
    server_of,
)
from deploy.docker_engine import ensure_engine, ensure_image_tools
from deploy.report import Stop, step
from deploy.testing import remove_installation
from deploy.trial import (
    Platform,
    TrialFailed,
    start_mlflow,
    start_platform,
    stop_mlflow,
    stop_platform,
)
from sandbox.engine import Engine

STARTS = 3
JOBS = 5
SERVER_STARTS = 3
PREDICTIONS = 200
MLFLOW_ALONE = "the MLflow server alone"


@dataclass(frozen=True)
class Bench:
    """Where a run happens. `folder` holds all of it: the installation's home, MLflow's, scripts."""

    engine: Engine
    folder: Path
    installation_id: str

    @property
    def home(self) -> Path:
        return self.folder / "var"

    @property
    def mlflow_home(self) -> Path:
        return self.folder / "mlflow"

    def start(self) -> Platform:
        """With a store of environments of its own: the first job must find none."""
        environments = self.folder / "environments" / "store"
        return start_platform(self.home, self.installation_id, environments=environments)


@dataclass(frozen=True)
class JobSamples:
    """What the jobs of a run showed."""

    ours: tuple[float, ...]
    by_hand: tuple[float, ...]
    first_answers: tuple[float, ...]
    last_version: str


def main() -> int:
    """Returns 0 whatever the figures are; 1 when they could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m bench.road", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as data too")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _bench() as bench:
            figures = _figures(bench)
    except KeyboardInterrupt:
        print("Ended early; nothing is left behind.", file=sys.stderr)
        return 130
    except (Stop, TrialFailed) as failed:
        print(f"The figures could not be taken. {failed}", file=sys.stderr)
        return 1
    print(f"\n{_machine_line()}\n\n{table(figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(_document(figures), indent=2, ensure_ascii=False))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first signal ends the work; a second one must not end the cleaning up."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _bench() -> Iterator[Bench]:
    """An engine, a folder and an installation's id; all that was made is gone at the end."""
    installation_id = f"bench-{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # Ours, if it has to be started: it must outlive the platforms that come and go.
        handle = ensure_engine(folder)
        stack.callback(handle.stop_daemon)
        stack.callback(remove_installation, handle.engine, installation_id)
        ensure_image_tools(handle.engine)
        yield Bench(engine=handle.engine, folder=folder, installation_id=installation_id)


def _figures(bench: Bench) -> list[Figure]:
    _prepare(bench)
    starts, alone, alone_megabytes = _starts(bench)
    platform, last_start = _timed_start(bench)
    try:
        figures = [_start_figure([*starts, last_start], alone)]
        figures += _memory_figures(platform, alone_megabytes)
        recipe, phases = _first_jobs(bench, platform)
        jobs = _jobs(bench, platform, recipe)
        figures.append(_job_figure(jobs))
        figures += _prediction_figures(bench, platform, jobs)
        figures += phases
        return figures
    finally:
        stop_platform(platform)


# -- starts and memory ----------------------------------------------------------------------------
def _prepare(bench: Bench) -> None:
    """First starts, which make what later ones find."""
    step("Starting a new installation, and MLflow alone, for the first time")
    stop_platform(bench.start())
    bench.mlflow_home.mkdir()
    stop_mlflow(start_mlflow(bench.mlflow_home))


def _starts(bench: Bench) -> tuple[list[float], list[float], float]:
    """Seconds of all platform starts but the last, of MLflow's starts, and MLflow's MB."""
    ours: list[float] = []
    alone: list[float] = []
    megabytes = 0.0
    for number in range(STARTS):
        begin = time.monotonic()
        server = start_mlflow(bench.mlflow_home)
        try:
            alone.append(time.monotonic() - begin)
            step(f"MLflow alone answers after {alone[-1]:.2f} s")
            if number == STARTS - 1:
                # The last platform's start follows: never both at once, they share pages.
                megabytes = settled_megabytes({"mlflow": server.process.pid})["mlflow"]
        finally:
            stop_mlflow(server)
        if number < STARTS - 1:
            platform, seconds = _timed_start(bench)
            stop_platform(platform)
            ours.append(seconds)
    return ours, alone, megabytes


def _timed_start(bench: Bench) -> tuple[Platform, float]:
    begin = time.monotonic()
    platform = bench.start()
    seconds = time.monotonic() - begin
    step(f"The platform runs after {seconds:.2f} s")
    return platform, seconds


def _start_figure(ours: Sequence[float], alone: Sequence[float]) -> Figure:
    return _of_samples(
        "second start until it runs",
        ours,
        alone,
        floor_is=f"{MLFLOW_ALONE} until /health answers",
        bar=Bar(10),
    )


def _memory_figures(platform: Platform, alone: float) -> list[Figure]:
    step("Waiting until the platform's memory has settled")
    held = settled_megabytes(platform.processes(), manager=platform.process.pid)
    whole = Figure(
        name="idle memory, all processes (PSS)",
        unit="MB",
        ours=sum(held.values()),
        floor=alone,
        floor_is=MLFLOW_ALONE,
        bar=Bar(900),
    )
    parts = sorted(held.items(), key=lambda part: -part[1])
    return [whole, *(Figure(name=f"  {name}", unit="MB", ours=value) for name, value in parts)]


# -- jobs -----------------------------------------------------------------------------------------
def _first_jobs(bench: Bench, platform: Platform) -> tuple[Recipe, list[Figure]]:
    """The job that builds its environment and the one that finds it; how the second was run."""
    recipes: list[Recipe] = []

    def note_recipe() -> None:
        labels = {"mlops.installation": bench.installation_id, "mlops.kind": "job"}
        recipes.extend(recipe_of(bench.engine, state.id) for state in bench.engine.find(labels))

    first = run_job(platform)
    step(f"The first job, whose environment was built, took {first.seconds:.1f} s")
    second = run_job(platform, on_training=note_recipe)
    step(f"The second job took {second.seconds:.1f} s")
    if not recipes:
        raise TrialFailed("The second job's container was not seen.")
    return recipes[0], [
        *_phase_figures("first job (environment built)", first),
        *_phase_figures("second job (environment known)", second),
    ]


def _phase_figures(name: str, followed: Followed) -> list[Figure]:
    whole = Figure(name=name, unit="s", ours=followed.seconds)
    parts = followed.phases.items()
    return [whole, *(Figure(name=f"  {part}", unit="s", ours=value) for part, value in parts)]


def _jobs(bench: Bench, platform: Platform, recipe: Recipe) -> JobSamples:
    """Jobs and the same script by hand in turn; each job's model is asked at once."""
    by_hand = ScriptByHand(
        engine=bench.engine,
        recipe=recipe,
        installation_id=bench.installation_id,
        folder=bench.folder / "by-hand",
        mlflow_password=(bench.home / "secrets" / "mlflow_password").read_text(),
    )
    ours, hand, first_answers = [], [], []
    version = ""
    for _ in range(JOBS):
        hand.append(by_hand.run())
        followed = run_job(platform)
        ours.append(followed.seconds)
        version = followed.version
        with platform_asker(platform.url, version=version) as asker:
            asker.ask()
        first_answers.append(time.monotonic() - followed.seen_at)
        step(
            f"Job {ours[-1]:.2f} s, by hand {hand[-1]:.2f} s, "
            f"first answer after {first_answers[-1]:.2f} s"
        )
    return JobSamples(
        ours=tuple(ours),
        by_hand=tuple(hand),
        first_answers=tuple(first_answers),
        last_version=version,
    )


def _job_figure(jobs: JobSamples) -> Figure:
    return _of_samples(
        "contract's example, accepted to completed",
        jobs.ours,
        jobs.by_hand,
        floor_is="the same script, environment and MLflow with docker run",
        bar=Bar(2.5, times_floor=True),
    )


# -- predictions ----------------------------------------------------------------------------------
def _prediction_figures(bench: Bench, platform: Platform, jobs: JobSamples) -> list[Figure]:
    server = server_of(bench.home, jobs.last_version)
    recipe = recipe_of(bench.engine, server.container)
    starts = [
        first_answer_by_hand(bench.engine, recipe, installation_id=bench.installation_id)
        for _ in range(SERVER_STARTS)
    ]
    step(f"A model server by hand answers after {statistics.median(starts):.2f} s")
    step(f"{PREDICTIONS} predictions, and as many asked of the model's container itself")
    ours, direct = [], []
    with (
        platform_asker(platform.url) as through,
        direct_asker(server.address, server.token) as straight,
    ):
        for _ in range(PREDICTIONS):
            ours.append(through.ask() * 1000)
            direct.append(straight.ask() * 1000)
    return [
        _of_samples(
            "first prediction after completed",
            jobs.first_answers,
            starts,
            floor_is="the model server's container started by hand until it answers",
            bar=Bar(3),
        ),
        *(
            _prediction_figure(f"prediction {ROWS}×{COLUMNS}, {name}", pick, ours, direct)
            for name, pick in (("p50", statistics.median), ("p99", _p99))
        ),
    ]


def _prediction_figure(
    name: str,
    pick: Callable[[Sequence[float]], float],
    ours: Sequence[float],
    direct: Sequence[float],
) -> Figure:
    return Figure(
        name=name,
        unit="ms",
        ours=pick(ours),
        floor=pick(direct),
        floor_is="the model's container asked directly",
        bar=Bar(25),
        samples=tuple(ours),
        floor_samples=tuple(direct),
    )


def _p99(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[-1]


# -- the result -----------------------------------------------------------------------------------
def _of_samples(
    name: str, ours: Sequence[float], floor: Sequence[float], *, floor_is: str, bar: Bar
) -> Figure:
    """The medians of seconds."""
    return Figure(
        name=name,
        unit="s",
        ours=statistics.median(ours),
        floor=statistics.median(floor),
        floor_is=floor_is,
        bar=bar,
        samples=tuple(ours),
        floor_samples=tuple(floor),
    )


def _machine_line() -> str:
    """The load is there because a busy machine shows in every second, ours and the floor's."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    python = machine.python_version()
    return f"{os.cpu_count()} CPUs, {machine.machine()}, Python {python}, load average {load}"


def _document(figures: Sequence[Figure]) -> dict[str, Any]:
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": machine.machine(),
            "python": machine.python_version(),
            "load_average": os.getloadavg(),
        },
        "figures": [figure.document() for figure in figures],
    }


if __name__ == "__main__":
    sys.exit(main())
