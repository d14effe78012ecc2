"""Tries its own limits from inside a container and prints what it found, as JSON.

`--memory`: uses memory until the kernel ends it, and prints a line if that never happens.
`--processes`: starts processes only; a kernel of the container's own may end with them.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
STATUS = Path("/proc/self/status")
TMP, SCRATCH = Path("/tmp"), Path("/scratch")  # noqa: S108
# Beyond every limit that a container is given.
MANY_FILES = 1_000_000
MANY_PROCESSES = 100_000
MANY_MIB = 1024 * 1024
PR_GET_NO_NEW_PRIVS = 39


def status() -> dict[str, str]:
    with STATUS.open() as lines:
        pairs = (line.rstrip("\n").partition(":\t") for line in lines)
        return {name: value for name, _, value in pairs}


def error_of(act: Callable[[], object]) -> str:
    """The name of the error that ends it; `none` when it works."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "none"


def open_files() -> int:
    """How many more can be opened."""
    opened: list[int] = []
    try:
        while len(opened) < MANY_FILES:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    finally:
        for handle in opened:
            os.close(handle)
    return len(opened)


def processes() -> int:
    """How many more can be started."""
    children: list[int] = []
    try:
        while len(children) < MANY_PROCESSES:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)


def room(folder: Path) -> int:
    """MiB that can be written to a folder."""
    path, written, piece = folder / "fill", 0, bytes(MIB)
    try:
        with path.open("wb", buffering=0) as file:
            while written < MANY_MIB and file.write(piece) == MIB:
                written += 1
    except OSError:
        pass
    path.unlink()
    return written


def runs_from(folder: Path) -> str:
    path = folder / "program"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o700)
    return error_of(lambda: os.posix_spawn(path, [str(path)], {}))


def hog() -> None:
    kept: list[bytes] = []
    while len(kept) * 16 < MANY_MIB:
        kept.append(os.urandom(16 * MIB))


def main() -> int:
    if "--memory" in sys.argv:
        hog()
        print("never ended", flush=True)
        return 0
    if "--processes" in sys.argv:
        print(json.dumps({"processes": processes()}), flush=True)
        return 0
    mine = status()
    found = {
        "uid": os.getuid(),
        "capabilities": mine["CapEff"] + mine["CapBnd"],
        # Asked of the kernel: not every one writes it into `status`.
        "no_new_privileges": str(ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)),
        "seccomp": mine["Seccomp"],
        "kernel": os.uname().release,
        "root": error_of(lambda: Path("/probe").mkdir()),
        "tmp_runs": runs_from(TMP),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "open_files": open_files(),
        "tmp_mb": room(TMP),
        "scratch_mb": room(SCRATCH),
    }
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
