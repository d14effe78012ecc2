"""`mlflow server` as one process; the arguments are its own.

MLflow's command imports all of the server, checks and migrates, and starts uvicorn as a second
process that imports all of it again, while the first one waits with 200 MB in its hands. Here
uvicorn runs where everything is imported already. All else is MLflow's own command: should it stop
to start uvicorn through this function, it serves as before, from two processes.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

# Before MLflow's server, which looks when it is imported whether it runs inside one.
from uvicorn.main import main as uvicorn_command  # isort: skip

import mlflow.server
from mlflow.cli import cli

UVICORN = [sys.executable, "-m", "uvicorn"]


def serve_here(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Does what `command` says in this process, and ends with it."""
    if list(command[: len(UVICORN)]) != UVICORN:
        sys.exit(f"MLflow would start something else than uvicorn: {command}")
    os.environ.update(extra_env)
    sys.exit(uvicorn_command(command[len(UVICORN) :], prog_name="uvicorn"))


if __name__ == "__main__":
    mlflow.server._exec_cmd = serve_here  # type: ignore[assignment]
    cli(prog_name="mlflow")
