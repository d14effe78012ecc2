"""MLOPS_HOME: all state of one installation, its identity, its secrets and who may read what."""

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.report import Stop

FOLDERS = (
    "db",
    "mlflow",
    "feast",
    "data",
    "jobs",
    "environments",
    "models",
    "batches",
    "logs",
    "requests",
    "secrets",
)
LOCK_FILE = "run.lock"
SECRETS = ("session_key", "queue_key", "mlflow_password", "mlflow_session_key")


@dataclass(frozen=True)
class Home:
    """The folder, the installation's id, and its secrets by name."""

    root: Path
    installation_id: str
    secrets: dict[str, str]

    def folder(self, name: str) -> Path:
        return self.root / name

    def remembered(self, key: str) -> Any:
        """Something kept between starts, such as MLflow's port; None when it is not."""
        return _read(self.root).get(key)

    def remember(self, key: str, value: Any) -> None:
        _write(self.root, {**_read(self.root), key: value})


def open_home(root: Path) -> Home:
    """Makes what is missing of the folder. Raises Stop when it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        (root / "secrets").chmod(0o700)
        known = _read(root)
        if "installation_id" not in known:
            # An id given from outside is for tests: they find and remove their own leftovers by it.
            fresh = os.environ.get("MLOPS_INSTALLATION_ID") or secrets.token_hex(3)
            _write(root, {**known, "installation_id": fresh})
        return Home(
            root=root,
            installation_id=str(_read(root)["installation_id"]),
            secrets={name: _secret(root / "secrets" / name) for name in SECRETS},
        )
    except PermissionError as error:
        raise Stop(
            f"{error.filename} cannot be written by this account; start with the account that made "
            f"it, or choose another folder with MLOPS_HOME."
        ) from None


def lock_home(home: Home) -> int:
    """One `make run` for a folder. Returns the handle that holds the lock. Raises Stop."""
    path = home.root / LOCK_FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text().strip() or "another process"
        raise Stop(
            f"This installation is running already (process {holder}). Stop that one first, or "
            f"start a second installation: MLOPS_HOME=./var2 PORT=8001 make run"
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def _secret(path: Path) -> str:
    """Made at the first start, readable by whoever started it and nobody else."""
    try:
        return path.read_text()
    except FileNotFoundError:
        value = secrets.token_urlsafe(32)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(value)
        return value


def _read(root: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((root / "installation.json").read_text()))
    except FileNotFoundError:
        return {}


def _write(root: Path, content: dict[str, Any]) -> None:
    aside = root / "installation.json.new"
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(root / "installation.json")
