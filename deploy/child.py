"""Becomes one process of the platform: gives up rights, ties its life to its parent's, and execs.

`python -m deploy.child '{"uid": …, "gid": …, "covered": […], "needed": […]}' COMMAND…`. Runs as
root only until the rights are given up. A checkout below a folder that the account cannot pass
(`/root`) is shown to it in a mount namespace of its own, in which nothing else of that folder is.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
STAGING = Path("/run/mlops-staging")


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    if order["covered"]:
        _uncover(
            [Path(path) for path in order["covered"]], [Path(path) for path in order["needed"]]
        )
    os.umask(0o007)
    if order["uid"] is not None:
        os.setgroups([])
        os.setgid(order["gid"])
        os.setuid(order["uid"])
    # After the change of account, which clears it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != order["parent"]:
        sys.exit("The process that started this one is gone.")
    os.execv(command[0], command)  # noqa: S606


def _uncover(covered: list[Path], needed: list[Path]) -> None:
    """In our own mount namespace, replaces each covered folder by what is needed of it."""
    STAGING.mkdir(mode=0o700, exist_ok=True)
    _mount("-t", "tmpfs", "tmpfs", str(STAGING))
    wanted = [path for path in needed if any(path.is_relative_to(folder) for folder in covered)]
    for number, path in enumerate(wanted):
        (STAGING / str(number)).mkdir()
        _mount("--bind", str(path), str(STAGING / str(number)))
    for folder in covered:
        _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(folder))
    for number, path in enumerate(wanted):
        path.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(STAGING / str(number)), str(path))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
