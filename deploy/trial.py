"""A whole platform, or MLflow alone, that exists for tests and benchmarks only.

Both are tied to the life of the process that starts them, and answer on free ports.
"""

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

from deploy.accounts import CHECKOUT
from deploy.servers import free_port, let_pass
from deploy.testing import ENVIRONMENTS

T = TypeVar("T")
START_SECONDS = 240
STOP_SECONDS = 120
JOB_SECONDS = 300
CALL_SECONDS = 30
# The upload of a script and the first answer of a model may take their time.
POST_SECONDS = 90
POLL_SECONDS = 0.1
NO_VARIABLES: Mapping[str, str] = {}
RUNNING_LINE = "Ctrl-C stops everything."
TERMINAL = ("completed", "failed", "cancelled")
# The example of the API's contract, word for word.
CONTRACT_SCRIPT = CHECKOUT / "tests" / "fixtures" / "contract_train.py"
# What marks a service in the command line of its process.
SERVICE_MARKS = {
    "web": "mlops_site.asgi",
    "worker": "manage.py work",
    "supervisor": "manage.py supervise",
    "mlflow": "mlflow",
}


class TrialFailed(AssertionError):
    """Something did not become true; the message says what. A test that meets it has failed."""


def wait_for(
    look: Callable[[], T | None], *, seconds: float, what: str, every: float = POLL_SECONDS
) -> T:
    """The first value of `look` that is not None or False. Raises TrialFailed."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TrialFailed(f"Not within {seconds} s: {what}")
        time.sleep(every)


@dataclass
class Platform:
    """A running platform: its address, its folder, and what it printed."""

    url: str
    home: Path
    installation_id: str
    process: "subprocess.Popen[bytes]"
    log: Path
    jobs: list[str] = field(default_factory=list)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, timeout=POST_SECONDS, **options)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=CALL_SECONDS)

    def delete(self, path: str) -> requests.Response:
        return requests.delete(f"{self.url}{path}", timeout=CALL_SECONDS)

    def upload(self, script: str, **fields: Any) -> str:
        """Sends a script and returns the job's id. Raises TrialFailed when it is refused."""
        body = {"script_name": "train.py", "script_content": script, **fields}
        answer = self.post("/mlops/training/upload", body)
        if answer.status_code != 202:
            raise TrialFailed(answer.text)
        self.jobs.append(answer.json()["job_id"])
        return self.jobs[-1]

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/mlops/training/jobs/{job_id}").json())

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it has come to an end."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in TERMINAL else None

        return wait_for(look, seconds=JOB_SECONDS, what=f"the end of job {job_id}")

    def run(self, script: str, **fields: Any) -> dict[str, Any]:
        return self.ended(self.upload(script, **fields))

    def model_folder(self, job: dict[str, Any]) -> Path:
        """Where the job's own model lies, among those that were fetched to be served."""
        described = (self.home / "models").rglob("MLmodel")
        return next(path.parent for path in described if job["run_id"] in path.read_text())

    def in_phase(self, job_id: str, phase: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            if job["status"] in TERMINAL:
                raise TrialFailed(f"It ended before the phase {phase}: {job}")
            return job if job["phase"] == phase else None

        return wait_for(look, seconds=JOB_SECONDS, what=f"phase {phase} of {job_id}")

    def container_of(self, job_id: str) -> str:
        """The container of the job's newest attempt: one of its own, or one that waited for it."""
        asked = "SELECT container_id FROM training_attempt WHERE job_id = ? ORDER BY number DESC"
        path = self.home / "db" / "platform.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as rows:
            return str(rows.execute(asked, (uuid.UUID(job_id).hex,)).fetchone()[0])

    def processes(self) -> dict[str, int]:
        """Process ids by the name of the service, from the parent's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        found = {}
        for pid in children.split():
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found.update({name: int(pid) for name, mark in SERVICE_MARKS.items() if mark in line})
        return found

    def said(self) -> str:
        logs = sorted((self.home / "logs").glob("*.log"))
        parts = [self.log, *logs]
        return "\n".join(f"== {part.name}\n{part.read_text()[-4000:]}" for part in parts)


def start_platform(
    home: Path,
    installation_id: str,
    *,
    environments: Path = ENVIRONMENTS,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Platform:
    """`python -m deploy run`, once it says that it runs. Raises TrialFailed; nothing runs then.

    `environments` is the store that the installation uses; tests share one, which is kept.
    `variables` are what the operator sets beside, such as DATABASE_URL.
    """
    home.parent.chmod(0o755)
    let_pass(home)
    environments.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = home.parent / "run.log"
    given = {
        **variables,
        "MLOPS_HOME": str(home),
        "PORT": str(port),
        "MLOPS_INSTALLATION_ID": installation_id,
        "MLOPS_ENVIRONMENTS_DIR": str(environments),
        # What is measured here must not wait for what nobody asked for.
        "MLOPS_PRELOAD_ENVIRONMENTS": os.environ.get("MLOPS_PRELOAD_ENVIRONMENTS", ""),
    }
    process = start_module("deploy", "run", variables=given, log=log)

    def running() -> bool:
        if process.poll() is not None:
            raise TrialFailed(log.read_text())
        return RUNNING_LINE in log.read_text()

    wait_or_stop(running, process, log=log, what="the platform")
    return Platform(
        url=f"http://localhost:{port}",
        home=home,
        installation_id=installation_id,
        process=process,
        log=log,
    )


def stop_platform(platform: Platform) -> str:
    """SIGTERM, the end, and everything that was printed."""
    stop_group(platform.process)
    return platform.log.read_text()


@dataclass(frozen=True)
class MlflowAlone:
    """An MLflow server as the platform starts it, with nothing around it."""

    url: str
    username: str
    password: str
    process: "subprocess.Popen[bytes]"


def start_mlflow(home: Path, *, variables: Mapping[str, str] = NO_VARIABLES) -> MlflowAlone:
    """The server of a folder, once it answers. Raises TrialFailed; nothing runs then."""
    port, password = free_port(), _kept_password(home / "admin_password")
    url, log = f"http://127.0.0.1:{port}", home / "server.log"
    variables = {
        **variables,
        "MLOPS_MLFLOW_PASSWORD": password,
        "MLOPS_MLFLOW_SECRET": secrets.token_hex(16),
    }
    arguments = ("--home", str(home), "--host", "127.0.0.1", "--port", str(port))
    process = start_module("registry.mlflow_server", *arguments, variables=variables, log=log)

    def answers() -> bool:
        if process.poll() is not None:
            raise TrialFailed(log.read_text())
        try:
            return requests.get(f"{url}/health", timeout=CALL_SECONDS).status_code == 200
        except requests.ConnectionError:
            return False

    wait_or_stop(answers, process, log=log, what="MLflow")
    return MlflowAlone(url=url, username="admin", password=password, process=process)


def stop_mlflow(server: MlflowAlone) -> None:
    stop_group(server.process)


def _kept_password(path: Path) -> str:
    """MLflow makes its administrator at the first start of a folder only."""
    if not path.exists():
        path.write_text(secrets.token_urlsafe(16))
    return path.read_text()


def start_module(
    module: str, *arguments: str, variables: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """A module of ours in a process group of its own, which ends when this process does."""
    as_we_are: dict[str, Any] = {"uid": None, "gid": None, "covered": [], "needed": []}
    order = json.dumps({**as_we_are, "parent": os.getpid()})
    command = [sys.executable, "-m", "deploy.child", order]
    command += [sys.executable, "-m", module, *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_or_stop(
    look: Callable[[], bool], process: "subprocess.Popen[bytes]", *, log: Path, what: str
) -> None:
    """Waits for a start; whatever ends the wait early, Ctrl-C included, ends the process too."""
    started = False
    try:
        wait_for(look, seconds=START_SECONDS, what=what, every=POLL_SECONDS / 2)
        started = True
    except TrialFailed as failed:
        raise TrialFailed(f"{failed}\n{log.read_text()}") from None
    finally:
        if not started:
            stop_group(process)


def stop_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the first process, which ends its own; SIGKILL to what is left of the group."""
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
