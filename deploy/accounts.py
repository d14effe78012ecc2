"""Started as root: accounts without rights for web and MLflow, and files that only theirs can read.

Worker and supervisor stay root, since they need the engine. Not root: all processes are who we are.
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.home import Home
from deploy.report import Stop

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Account:
    """Somebody a process can run as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Accounts:
    """Who runs what; None means: as whoever started the platform."""

    web: Account | None
    mlflow: Account | None


def ensure_accounts(home: Home) -> Accounts:
    """Makes the accounts as root, and hands them their folders."""
    if os.geteuid() != 0:
        return Accounts(web=None, mlflow=None)
    web = _ensure_account(f"mlops-{home.installation_id}-web")
    mlflow = _ensure_account(f"mlops-{home.installation_id}-mlflow")
    _hand_over(home, web=web, mlflow=mlflow)
    return Accounts(web=web, mlflow=mlflow)


def remove_accounts(installation_id: str) -> None:
    """For installations that are thrown away, such as those of tests."""
    if os.geteuid() != 0:
        return
    for part in ("web", "mlflow"):
        name = f"mlops-{installation_id}-{part}"
        subprocess.run(["userdel", name], capture_output=True)


def covered_folders(needed: list[Path]) -> list[Path]:
    """The folders above `needed` that an account without rights cannot pass, such as /root."""
    found = []
    for path in needed:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                found.append(parent)
                break
    return list(dict.fromkeys(found))


def needed_folders(home: Home) -> list[Path]:
    """What a process reads: this checkout, its Python, the installation's state."""
    return [CHECKOUT, Path(sys.base_prefix).resolve(), home.root]


def _ensure_account(name: str) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home"]
        command += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Stop(f"The account {name} cannot be made: {done.stderr.strip()}") from None
        entry = pwd.getpwnam(name)
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def _hand_over(home: Home, *, web: Account, mlflow: Account) -> None:
    """Each folder to the one process that needs it; nothing to the rest of the machine."""
    home.root.chmod(0o711)
    for name in ("jobs", "models", "environments", "logs", "secrets"):
        home.folder(name).chmod(0o700)
    (home.root / "installation.json").chmod(0o600)
    # Set-gid, and umask 007 in every process: web and worker write the same SQLite files.
    _give(home.folder("db"), uid=0, gid=web.gid, folder_mode=0o2770, file_mode=0o660)
    # Who uploads is web, who predicts is a worker, and each reads what the other wrote.
    _give(home.folder("batches"), uid=web.uid, gid=web.gid, folder_mode=0o2770, file_mode=None)
    _give(home.folder("feast"), uid=0, gid=web.gid, folder_mode=0o2750, file_mode=0o640)
    _give(home.folder("mlflow"), uid=mlflow.uid, gid=mlflow.gid, folder_mode=0o700, file_mode=None)
    _give(home.folder("requests"), uid=web.uid, gid=web.gid, folder_mode=0o700, file_mode=None)
    home.folder("data").chmod(0o755)


def _give(folder: Path, *, uid: int, gid: int, folder_mode: int, file_mode: int | None) -> None:
    """The folder and the files right in it; what lies deeper was made by its owner."""
    os.chown(folder, uid, gid)
    folder.chmod(folder_mode)
    for entry in folder.iterdir():
        if entry.is_file() and not entry.is_symlink():
            os.chown(entry, uid, gid)
            if file_mode is not None:
                entry.chmod(file_mode)
