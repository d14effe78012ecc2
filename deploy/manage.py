"""`make manage`: Django's commands with what the running installation's worker was given.

Reads the worker's variables from the kernel: they hold passwords, which stay off the disk.
"""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from deploy.accounts import CHECKOUT
from deploy.home import LOCK_FILE
from deploy.report import Stop

# Both were given the same; one of the two may be on its way back.
GIVERS = (("manage.py", "work"), ("manage.py", "supervise"))


def manage(arguments: list[str]) -> int:
    """Runs `manage.py` with these words. Returns its exit code; 1 where no installation runs."""
    home = Path(os.environ.get("MLOPS_HOME", CHECKOUT / "var")).resolve()
    try:
        environment = worker_environment(home)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, umask=0o007).returncode


def worker_environment(home: Path) -> dict[str, str]:
    """The variables of the worker that `make run` started for this folder.

    Raises Stop when none runs, or when they are not this account's to read.
    """
    try:
        holder = psutil.Process(int((home / LOCK_FILE).read_text()))
        for process in holder.children():
            found = _given(process)
            if found.get("MLOPS_HOME") == str(home):
                return found
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        pass
    except (PermissionError, psutil.AccessDenied):
        raise Stop(f"{home} is run by another account: use that one, or root.") from None
    raise Stop(
        f"No installation runs in {home}: start it with make run, or name the folder of the one "
        "that runs with MLOPS_HOME."
    )


def _given(process: psutil.Process) -> dict[str, str]:
    """Empty for any process but worker and supervisor, and for one that ends just now."""
    try:
        if tuple(process.cmdline()[1:3]) not in GIVERS:
            return {}
        return process.environ()
    except psutil.NoSuchProcess:
        return {}
