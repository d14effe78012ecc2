"""Starts MLflow as the platform wants it: users, nothing public, one process, files in one folder.

`python -m registry.mlflow_server --home FOLDER --host ADDRESS --port PORT`, with the password of
the administrator in `MLOPS_MLFLOW_PASSWORD` and the key of its sessions in `MLOPS_MLFLOW_SECRET`.
Replaces itself by MLflow (`mlflow_process`), so that signals reach it.
"""

import argparse
import os
import sys
from pathlib import Path

from registry import job_tokens
from registry.gate.ledger import FILES_VARIABLE, MEGABYTES_VARIABLE, USUAL_BOUNDS

PROCESS = Path(__file__).resolve().with_name("mlflow_process.py")
# `READ` is what MLflow ships: then every job could read every other job's data.
AUTH_SETTINGS = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{home}/auth.db
admin_username = admin
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    password = os.environ.pop("MLOPS_MLFLOW_PASSWORD", "")
    secret = os.environ.pop("MLOPS_MLFLOW_SECRET", "")
    if not password or not secret:
        sys.exit("MLOPS_MLFLOW_PASSWORD and MLOPS_MLFLOW_SECRET must be set.")
    auth_file = _write_auth_settings(home, password)
    environment = {
        MEGABYTES_VARIABLE: str(USUAL_BOUNDS.megabytes),
        FILES_VARIABLE: str(USUAL_BOUNDS.files),
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(auth_file),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret,
        job_tokens.PREFIX_VARIABLE: job_tokens.PREFIX,
        # Its job runner costs 2.5 GB and does nothing for us.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its account cannot write beside the packages: without a place of its own for bytecode it
        # compiles all of MLflow at each start.
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
        "HOME": str(home),
    }
    os.chdir(home)
    # -P: nothing that lies beside the script is taken for a package.
    command = [sys.executable, "-P", str(PROCESS), "server"]
    command += ["--host", arguments.host, "--port", str(arguments.port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    command += ["--artifacts-destination", str(home / "artifacts"), "--serve-artifacts"]
    command += ["--app-name", "basic-auth", "--uvicorn-opts", "--log-level warning"]
    os.execve(sys.executable, command, environment)  # noqa: S606


def _write_auth_settings(home: Path, password: str) -> Path:
    """Readable by MLflow's own account only."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "auth.ini"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(AUTH_SETTINGS.format(home=home, password=password))
    return path


if __name__ == "__main__":
    main()
