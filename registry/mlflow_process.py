"""`mlflow server` as one process; the arguments are its own.

MLflow's command imports all of the server, checks and migrates, and starts uvicorn as a second
process that imports all of it again, while the first one waits with 200 MB in its hands. Here
uvicorn runs where everything is imported already. All else is MLflow's own command: should it stop
to start uvicorn through this function, it serves as before, from two processes.

Before MLflow stands the gate (`registry/gate`), which holds each job to what it made itself.
Without it nothing is served.

The passwords of jobs, which are random (`job_tokens`), are hashed quickly; a person's as ever.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Before MLflow's server, which looks when it is imported whether it runs inside one.
from uvicorn.main import main as uvicorn_command  # isort: skip

import mlflow.server
from mlflow.cli import cli
from mlflow.entities import LifecycleStage
from werkzeug.security import generate_password_hash

# Behind everything else: nothing of ours is taken for a package of MLflow's.
sys.path.append(str(Path(__file__).resolve().parent.parent))
from registry.gate.asgi import Gate  # isort: skip
from registry.gate.ledger import FILES_VARIABLE, MEGABYTES_VARIABLE, Bounds, Ledger  # isort: skip

# One round: see `job_tokens`.
QUICK_HASH = "pbkdf2:sha256:1"
TOKEN_CHARACTERS = 40
AUTH_APPLICATION = "mlflow.server.auth:create_app"
UVICORN = [sys.executable, "-m", "uvicorn"]


def serve_here(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
    """Does what `command` says in this process, and ends with it."""
    if list(command[: len(UVICORN)]) != UVICORN:
        sys.exit(f"MLflow would start something else than uvicorn: {command}")
    if command[-1] != AUTH_APPLICATION:
        sys.exit(f"MLflow would serve something else than {AUTH_APPLICATION}: {command[-1]}")
    os.environ.update(extra_env)
    # Only now: it reads the environment when it is imported.
    from mlflow.server import auth  # noqa: PLC0415

    auth.sqlalchemy_store.generate_password_hash = hash_password  # type: ignore[assignment]
    auth.create_app = _gated(auth)  # type: ignore[assignment]
    sys.exit(uvicorn_command(command[len(UVICORN) :], prog_name="uvicorn"))


def _gated(auth: Any) -> Callable[[], Gate]:
    """The factory of MLflow's module of that name, with the gate before what it makes."""
    create_app = auth.create_app
    bounds = Bounds(
        megabytes=int(os.environ[MEGABYTES_VARIABLE]),
        files=int(os.environ[FILES_VARIABLE]),
    )
    ledger = Ledger(Path("jobs.db").resolve(), bounds)

    def make_user(username: str, password: str, experiment_name: str) -> str:
        experiment = auth._get_tracking_store().get_experiment_by_name(experiment_name)
        if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            return ""
        auth.store.create_user(username, password)
        experiment_id = str(experiment.experiment_id)
        auth.store.grant_user_resource_permission(username, "experiment", experiment_id, "EDIT")
        return experiment_id

    return lambda: Gate(
        create_app(), authenticate=auth._authenticate_cached, make_user=make_user, ledger=ledger
    )


def hash_password(password: str) -> str:
    """What MLflow keeps of a password."""
    prefix = os.environ.get("MLOPS_JOB_TOKEN_PREFIX", "")
    if prefix and password.startswith(prefix) and len(password) >= TOKEN_CHARACTERS:
        return generate_password_hash(password, method=QUICK_HASH)
    return generate_password_hash(password)


if __name__ == "__main__":
    mlflow.server._exec_cmd = serve_here  # type: ignore[assignment]
    cli(prog_name="mlflow")
