"""How long a queued task waits for its worker, by database and queue: `python -m bench.queue`.

Each pair gets a worker of its own (`manage.py work`), and each task comes alone: what is measured
is the way to an idle worker, not a queue that is full.
"""

import argparse
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.accounts import CHECKOUT
from deploy.servers import postgresql, redis_server

OURS = ("DATABASE_URL", "REDIS_URL")
TASKS = 100
# Between two tasks, so that they do not fall into step with a reader that polls.
PAUSE_SECONDS = 0.3
START_SECONDS = 60
ANSWER_SECONDS = 30
STOP_SECONDS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--measure", metavar="NAME", help="for its own use: one pair")
    options = parser.parse_args()
    if options.measure:
        _measure(options.measure, options.tasks)
        return 0
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as name:
        folder = Path(name)
        with postgresql(folder / "postgresql") as rows, redis_server(folder / "redis") as queue:
            pairs = {
                "SQLite, queue in the database": {},
                "PostgreSQL, queue in the database": {"DATABASE_URL": rows.url},
                "PostgreSQL, queue in Redis": {"DATABASE_URL": rows.url, "REDIS_URL": queue.url},
            }
            for pair, variables in pairs.items():
                _run(pair, folder, options.tasks, variables)
    return 0


def _run(pair: str, folder: Path, tasks: int, variables: dict[str, str]) -> None:
    """In a process of its own: settings are read once."""
    (folder / "db").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    environment |= {
        "MLOPS_HOME": str(folder),
        "MLOPS_INSTALLATION_ID": "bench",
        "MLOPS_SECRET_KEY": secrets.token_urlsafe(16),
        "MLOPS_LOG_LEVEL": "ERROR",
        "DJANGO_SETTINGS_MODULE": "mlops_site.settings",
    }
    command = [sys.executable, "-m", "bench.queue", "--measure", pair, "--tasks", str(tasks)]
    subprocess.run(command, cwd=CHECKOUT, env={**environment, **variables}, check=True)


def _measure(pair: str, tasks: int) -> None:
    import django  # noqa: PLC0415 - after the variables

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0, interactive=False)
    with _worker():
        _one(seconds=START_SECONDS)
        waits = sorted(_each(tasks))
    median, worst = statistics.median(waits), waits[int(len(waits) * 0.95)]
    print(f"{pair:<36} median {median * 1000:6.1f} ms   95 % {worst * 1000:6.1f} ms", flush=True)


def _each(tasks: int) -> Iterator[float]:
    for _ in range(tasks):
        time.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 - no secret
        yield _one(seconds=ANSWER_SECONDS)


def _one(*, seconds: float) -> float:
    """Seconds from before the task is queued to its start: the task is to tell the time."""
    from django_q.tasks import async_task, result  # noqa: PLC0415

    asked_at = time.time()
    started_at = result(async_task("time.time"), wait=int(seconds * 1000))
    if started_at is None:
        raise TimeoutError(f"No worker ran the task within {seconds} s.")
    return float(started_at) - asked_at


@contextmanager
def _worker() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "manage.py", "work"], cwd=CHECKOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
