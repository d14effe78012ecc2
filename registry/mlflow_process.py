"""`mlflow server` as one process; the arguments are its own.

MLflow's command imports all of the server, checks and migrates, and starts uvicorn as a second
process that imports all of it again, while the first one waits with 200 MB in its hands. Here
uvicorn runs where everything is imported already. All else is MLflow's own command: should it stop
to start uvicorn through this function, it serves as before, from two processes.

The passwords of jobs, which are random (`job_tokens`), are hashed quickly; a person's as ever.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

# Before MLflow's server, which looks when it is imported whether it runs inside one.
from uvicorn.main import main as uvicorn_command  # isort: skip

import mlflow.server
from mlflow.cli import cli
from werkzeug.security import generate_password_hash

# One round: see `job_tokens`.
QUICK_HASH = "pbkdf2:sha256:1"
TOKEN_CHARACTERS = 40
UVICORN = [sys.executable, "-m", "uvicorn"]


def serve_here(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Does what `command` says in this process, and ends with it."""
    if list(command[: len(UVICORN)]) != UVICORN:
        sys.exit(f"MLflow would start something else than uvicorn: {command}")
    os.environ.update(extra_env)
    # Only now: it reads the environment when it is imported.
    from mlflow.server.auth import sqlalchemy_store  # noqa: PLC0415

    sqlalchemy_store.generate_password_hash = hash_password  # type: ignore[assignment]
    sys.exit(uvicorn_command(command[len(UVICORN) :], prog_name="uvicorn"))


def hash_password(password: str) -> str:
    """What MLflow keeps of a password."""
    prefix = os.environ.get("MLOPS_JOB_TOKEN_PREFIX", "")
    if prefix and password.startswith(prefix) and len(password) >= TOKEN_CHARACTERS:
        return generate_password_hash(password, method=QUICK_HASH)
    return generate_password_hash(password)


if __name__ == "__main__":
    mlflow.server._exec_cmd = serve_here  # type: ignore[assignment]
    cli(prog_name="mlflow")
