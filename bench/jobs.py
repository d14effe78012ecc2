"""What a job costs, beside its floors: `python -m bench.jobs` prints figures and the bars for them.

Two halves. The rows: list, status and claim on a database of its own with ever more rows. The road:
a whole platform with a Docker Engine, whose starts are measured beside `docker run` of the same
image in the same run. It is an installation of its own and is removed at the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests

from bench.platforms import own_platform, resident_mb
from deploy.servers import postgresql
from deploy.trial import Platform
from sandbox.engine import Engine

WARM_START_RATIO = 1.3
ROWS_RATIO = 1.5
SUPERVISOR_MB = 200
REPEATS = 30
PAGE_ROWS = 50
BATCH = 5000
CLIENTS = 8
END_SECONDS = 1800
# The moment of the first line, by the machine's one clock.
FIRST_LINE = "import time\nprint('first', time.time(), flush=True)\n"
EMPTY = "print('x')\nraise SystemExit(3)\n"
WAITS = "import threading\nprint('up', flush=True)\nthreading.Event().wait()\n"
SMALL = {"MLOPS_JOB_MEMORY_MB": "64", "MLOPS_JOB_CPUS": "0.02", "MLOPS_RESERVED_MEMORY_MB": "0"}


@dataclass(frozen=True)
class Figure:
    """One line of the report; `bar` is what the figure must not exceed, 0 where there is none."""

    name: str
    value: float
    unit: str
    bar: float = 0.0

    def shown(self) -> str:
        judged = ""
        if self.bar:
            judged = f"(bar {self.bar:g}: {'holds' if self.value <= self.bar else 'MISSED'})"
        return f"{self.name:<58} {self.value:>10.3f} {self.unit:<9} {judged}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["rows", "road"])
    parser.add_argument(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="of the rows; either is one of its own, made for this run",
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--starts", type=int, default=9, help="of which the median counts")
    parser.add_argument("--jobs", type=int, default=50, help="empty ones, end to end")
    parser.add_argument("--containers", type=int, default=20, help="that run at once")
    options = parser.parse_args()
    figures: list[Figure] = []
    if options.only != "road":
        figures += measure_rows(options.rows, database=options.database)
    if options.only != "rows":
        figures += measure_road(options)
    missed = [figure for figure in figures if figure.bar and figure.value > figure.bar]
    return 1 if missed else 0


def _told(figures: list[Figure]) -> list[Figure]:
    for figure in figures:
        print(figure.shown(), flush=True)
    return figures


# -- rows ----------------------------------------------------------------------------------------
def measure_rows(sizes: list[int], *, database: str) -> list[Figure]:
    """On a database that is made for this and removed: never on the one of a platform."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder, ExitStack() as servers:
        os.environ.pop("DATABASE_URL", None)
        if database == "postgresql":
            server = servers.enter_context(postgresql(Path(folder) / "postgresql"))
            os.environ["DATABASE_URL"] = server.url
        print(f"Rows, on {database}; PostgreSQL without fsync", flush=True)
        os.environ["MLOPS_HOME"] = folder
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlops_site.settings")
        (Path(folder) / "db").mkdir()
        # After the variables: settings are read once.
        import django  # noqa: PLC0415

        django.setup()
        return _measure_sizes(sorted(sizes))


def _measure_sizes(sizes: list[int]) -> list[Figure]:
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0, interactive=False)
    figures: list[Figure] = []
    floor: dict[str, float] = {}
    made = 0
    for size in sizes:
        _make_rows(size - made)
        _count_rows()
        made = size
        for name, seconds in _costs().items():
            floor.setdefault(name, seconds)
            ratio = seconds / floor[name]
            figures += _told(
                [
                    Figure(f"{name} at {size} rows", seconds * 1000, "ms"),
                    Figure(f"{name}: {size} rows over {sizes[0]}", ratio, "times", ROWS_RATIO),
                ]
            )
    return figures


def _count_rows() -> None:
    """PostgreSQL plans by what it last counted; its own counting comes a minute later."""
    from django.db import connection  # noqa: PLC0415

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def _make_rows(count: int) -> None:
    """Ended jobs, as most of a million are, with one attempt and three words each."""
    from django.utils import timezone  # noqa: PLC0415

    from training.models import Attempt, Job, JobTerm  # noqa: PLC0415

    now = timezone.now()
    for start in range(0, count, BATCH):
        jobs = [
            Job(
                script_name="train.py",
                script="print(1)\n" * 20,
                experiment_name=f"experiment-{number % 50}",
                model_name=f"model-{number % 100}",
                timeout_seconds=300,
                memory_mb=2048,
                cpus=1.0,
                owner=f"user-{number % 20}",
                status="completed" if number % 4 else "failed",
                phase="ended",
                reason="succeeded" if number % 4 else "script_error",
                error="" if number % 4 else "It failed.",
                created_at=now - timedelta(seconds=number),
                completed_at=now,
            )
            for number in range(start, min(start + BATCH, count))
        ]
        Job.objects.bulk_create(jobs)
        Attempt.objects.bulk_create(
            Attempt(job=job, lease_owner="x", lease_expires_at=now, created_at=now, finished_at=now)
            for job in jobs
        )
        terms = ("word:train", "word:py", "tag:team=growth")
        JobTerm.objects.bulk_create(
            JobTerm(job=job, term=term, created_at=job.created_at) for job in jobs for term in terms
        )


def _costs() -> dict[str, float]:
    """Median seconds of each; what a claim took is made to wait again."""
    from training.api.serializers import job_document  # noqa: PLC0415
    from training.listing import JobFilter  # noqa: PLC0415
    from training.models import Job  # noqa: PLC0415

    some = Job.objects.order_by("created_at").values_list("pk", flat=True)[500]
    return {
        "list page": _median(lambda: _page(JobFilter())),
        "list page of failed jobs": _median(lambda: _page(JobFilter(status="failed"))),
        "list page of a tag": _median(lambda: _page(JobFilter(terms=("tag:team=growth",)))),
        "job status": _median(lambda: job_document(Job.objects.get(pk=some))),
        "claim with 100 waiting": _claims(),
    }


def _page(wanted: Any) -> list[dict[str, Any]]:
    """What the list answers, as documents."""
    from training.api.serializers import row_document  # noqa: PLC0415
    from training.facts import facts_of  # noqa: PLC0415
    from training.listing import page_of_jobs  # noqa: PLC0415

    page = page_of_jobs(wanted, limit=PAGE_ROWS)
    facts = facts_of(page.jobs)
    return [row_document(job, facts[job.pk]) for job in page.jobs]


def _claims() -> float:
    from django.utils import timezone  # noqa: PLC0415

    from training.models import Attempt, EngineCapacity, Job, QueueTurn  # noqa: PLC0415
    from training.services import claim  # noqa: PLC0415

    now = timezone.now()
    waiting = [
        Job(
            id=uuid.uuid4(),
            script_name="w.py",
            script="1",
            experiment_name="waiting",
            model_name="m",
            timeout_seconds=300,
            memory_mb=1,
            cpus=0.001,
            owner=f"user-{number % 20}",
            created_at=now,
        )
        for number in range(100)
    ]
    Job.objects.bulk_create(waiting)
    EngineCapacity.objects.update_or_create(
        engine="local",
        defaults={
            "memory_mb": 10**6,
            "memory_free_mb": 10**6,
            "cpus": 1000,
            "disk_free_mb": 10**6,
            "measured_at": now,
        },
    )

    def once() -> None:
        attempt = claim.claim_next()
        assert attempt is not None  # noqa: S101 - a claim that takes nothing measures nothing
        # So that its environment does not count as one that is being built.
        Job.objects.filter(pk=attempt.job_id).update(phase="training")

    seconds = _median(once)
    mine = Job.objects.filter(experiment_name="waiting")
    Attempt.objects.filter(job__in=mine).delete()
    mine.delete()
    QueueTurn.objects.all().delete()
    return seconds


def _median(call: Callable[[], Any]) -> float:
    call()
    return statistics.median(_seconds(call) for _ in range(REPEATS))


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# -- the road ------------------------------------------------------------------------------------
def measure_road(options: argparse.Namespace) -> list[Figure]:
    engine = Engine.connect()
    figures: list[Figure] = []
    with own_platform(engine) as platform:
        figures += _told(_starts(platform, options.starts))
        figures += _told(_empty_jobs(platform, options.jobs))
    with own_platform(engine, SMALL) as platform:
        figures += _told(_supervisor_memory(platform, options.containers))
    return figures


def _starts(platform: Platform, count: int) -> list[Figure]:
    """By turns, so that whatever else the machine does weighs on both."""
    platform.run(FIRST_LINE)  # builds the environment
    network = f"mlops-{platform.installation_id}-jobs"
    ours, floor, networked = [], [], []
    for _ in range(count):
        job_id = platform.upload(FIRST_LINE)
        accepted = time.time()
        ours.append(_printed_at(platform.ended(job_id)["logs"]) - accepted)
        floor.append(_docker_run(platform))
        networked.append(_docker_run(platform, "--network", network))
    seconds, docker = statistics.median(ours), statistics.median(floor)
    beside = statistics.median(networked)
    return [
        Figure(f"accepted → first line, median of {count}", seconds, "s"),
        Figure("docker run of the same image → first line", docker, "s"),
        Figure("the one over the other", seconds / docker, "times", WARM_START_RATIO),
        Figure("docker run on the jobs' network → first line", beside, "s"),
        Figure("the start over that", seconds / beside, "times"),
    ]


def _docker_run(platform: Platform, *options: str) -> float:
    environment = _environment_folder(platform)
    command = ["docker", "run", "--rm", "-v", f"{environment}:/env:ro", *options]
    command += [f"mlops-runner:{platform.installation_id}", "/env/bin/python", "-c", FIRST_LINE]
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _printed_at(done.stdout) - started


def _environment_folder(platform: Platform) -> Path:
    from deploy.testing import ENVIRONMENTS  # noqa: PLC0415

    return max((ENVIRONMENTS / "envs").iterdir(), key=lambda folder: folder.stat().st_mtime)


def _printed_at(log: str) -> float:
    line = next(line for line in log.splitlines() if line.startswith("first "))
    return float(line.split()[1])


def _empty_jobs(platform: Platform, count: int) -> list[Figure]:
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        job_ids = list(clients.map(lambda _: _post(platform, EMPTY), range(count)))
    posted = time.perf_counter() - started
    for job_id in job_ids:
        _wait_for(platform, job_id, lambda job: job["status"] == "failed")
    total = time.perf_counter() - started
    return [
        Figure(f"accepted POSTs a second, {CLIENTS} clients", count / posted, "1/s"),
        Figure(f"{count} empty jobs, end to end", total, "s"),
        Figure("empty jobs a second", count / total, "1/s"),
    ]


def _supervisor_memory(platform: Platform, count: int) -> list[Figure]:
    job_ids = [_post(platform, WAITS) for _ in range(count)]
    for job_id in job_ids:
        _wait_for(platform, job_id, lambda job: job["phase"] == "training")
    used = resident_mb(platform.processes()["supervisor"])
    return [Figure(f"the supervisor's memory, {count} containers run", used, "MiB", SUPERVISOR_MB)]


def _post(platform: Platform, script: str) -> str:
    body = {"script_name": "train.py", "script_content": script}
    answer = requests.post(f"{platform.url}/mlops/training/upload", json=body, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["job_id"])


def _wait_for(platform: Platform, job_id: str, reached: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not reached(platform.job(job_id)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job_id} is {platform.job(job_id)['phase']}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
