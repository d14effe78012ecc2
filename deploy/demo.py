"""A console full of rows that exists for tests, benchmarks and pictures only: web and MLflow.

There is no engine, no worker and no supervisor: what the pages show was never run, and nothing of
it is. All of it is tied to the life of the process that starts it.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from deploy.accounts import CHECKOUT
from deploy.home import Home, open_home
from deploy.manage import worker_environment
from deploy.process_plan import CONNECTION
from deploy.servers import free_port
from deploy.trial import (
    CALL_SECONDS,
    NO_VARIABLES,
    TrialFailed,
    start_mlflow,
    start_module,
    stop_group,
    stop_mlflow,
    wait_for,
    wait_or_stop,
)

INSTALLATION = "demo"
PASSWORD = "only-for-a-demo"  # noqa: S105 - of people who are there for a minute
# One of each group, as `mlops_site.demo.people` makes them.
PEOPLE = {
    "viewer": "vera",
    "data scientist": "dana",
    "operator": "otto",
    "administrator": "ada",
}
MAKE_PEOPLE = f"from mlops_site.demo.people import make_people; make_people({PASSWORD!r})"
SEED_SECONDS = 3600
DONE = "Done."


@dataclass(frozen=True)
class Demo:
    """Where it answers, the folder of its state and its logs, and what its processes were given."""

    url: str
    home: Path
    variables: Mapping[str, str]

    def said(self) -> str:
        logs = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text()[-4000:]}" for log in logs)


@contextmanager
def demo(
    folder: Path, *, jobs: int, seed: int = 1, variables: Mapping[str, str] = NO_VARIABLES
) -> Iterator[Demo]:
    """In a folder of its own, which is kept. Raises TrialFailed; nothing runs then.

    `variables` are what an operator would set, such as DATABASE_URL.
    """
    home = open_home(folder.resolve())
    with ExitStack() as stack:
        port = free_port()
        given = {**variables, **_variables(home, port)}
        # Beside MLflow, which takes longest to start.
        beside = [_manage(given, "migrate", "-v0"), _manage(given, "prepare_feature_store")]
        mlflow = start_mlflow(home.folder("mlflow"))
        stack.callback(stop_mlflow, mlflow)
        for process in beside:
            _finish(process)
        given |= {"MLFLOW_TRACKING_URI": mlflow.url, "MLOPS_MLFLOW_PASSWORD": mlflow.password}
        _seed(stack, home, given, jobs=jobs, seed=seed)
        _serve(stack, home, given, port)
        yield Demo(f"http://localhost:{port}", home.root, given)


def make_people(home: Path) -> None:
    """One of each group, in the platform that runs in this folder. Raises Stop where none does."""
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", MAKE_PEOPLE]
    environment = worker_environment(home)
    subprocess.run(command, cwd=CHECKOUT, env=environment, umask=0o007, check=True)


def _variables(home: Home, port: int) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "mlops_site.settings",
        "MLOPS_HOME": str(home.root),
        "MLOPS_INSTALLATION_ID": INSTALLATION,
        "MLOPS_SECRET_KEY": home.secrets["session_key"],
        "PORT": str(port),
    }


def _manage(variables: Mapping[str, str], *words: str) -> "subprocess.Popen[bytes]":
    log = Path(variables["MLOPS_HOME"]) / "logs" / f"{words[0]}.log"
    return start_module("django", *words, variables=variables, log=log)


def _finish(process: "subprocess.Popen[bytes]") -> None:
    if process.wait():
        raise TrialFailed(f"{process.args!r} ended with {process.returncode}")


def _seed(
    stack: ExitStack, home: Home, variables: Mapping[str, str], *, jobs: int, seed: int
) -> None:
    """The seeding process stays, and says again and again that all processes are well."""
    words = ("seed_demo", "--jobs", str(jobs), "--seed", str(seed), "--password", PASSWORD)
    process = _manage(variables, *words, "--mlflow", "--stay")
    stack.callback(stop_group, process)
    log = home.folder("logs") / "seed_demo.log"

    def done() -> bool:
        if process.poll() is not None:
            raise TrialFailed(log.read_text())
        return DONE in log.read_text()

    wait_for(done, seconds=SEED_SECONDS, what=f"{jobs} jobs")


def _serve(stack: ExitStack, home: Home, variables: Mapping[str, str], port: int) -> None:
    """As the platform serves itself."""
    words = ["mlops_site.asgi:application", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--loop", "uvloop", "--http", CONNECTION, "--no-access-log"]
    words += ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    log = home.folder("logs") / "web.log"
    process = start_module("uvicorn", *words, variables=variables, log=log)

    def answers() -> bool:
        if process.poll() is not None:
            raise TrialFailed(log.read_text())
        try:
            url = f"http://127.0.0.1:{port}/mlops/status"
            return requests.get(url, timeout=CALL_SECONDS).status_code == 200
        except requests.ConnectionError:
            return False

    wait_or_stop(answers, process, log=log, what="the web process")
    stack.callback(stop_group, process)


def main() -> int:
    """`python -m deploy.demo FOLDER [JOBS]`: until Ctrl-C."""
    folder, jobs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with demo(folder, jobs=jobs) as made:
        people = ", ".join(PEOPLE.values())
        print(f"{made.url}/admin/ as {people}; the password is {PASSWORD}", flush=True)
        try:
            subprocess.run(["sleep", "infinity"], cwd=CHECKOUT)
        except KeyboardInterrupt:
            print("Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
