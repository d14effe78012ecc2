"""Stands before several scripts of the corpus that run in one container.

One after another, or together where they only wait for answers that do not come.

Each is a process of its own in a session of its own; what it leaves in the writable folders goes.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing

# None takes as long, beside whatever else the machine does.
SECONDS, TOGETHER_SECONDS = 60, 60
WRITABLE = ("/tmp", "/scratch", "/dev/shm")  # noqa: S108
BEGIN, END = "--- begins ", "--- ended "


def run_each(prelude: str, scripts: dict[str, str]) -> None:
    for name, script in scripts.items():
        print(f"{BEGIN}{name}", flush=True)
        status = _run(f"{prelude}\n{script}", name)
        print(f"\n{END}{name} {status}", flush=True)
        _clean()


def run_together(prelude: str, scripts: dict[str, str]) -> None:
    deadline = time.monotonic() + TOGETHER_SECONDS
    begun = {}
    for name, script in scripts.items():
        said = tempfile.TemporaryFile()  # noqa: SIM115 - read when the script has ended
        begun[name] = (_begin(f"{prelude}\n{script}", name, said), said)
    for name, (child, said) in begun.items():
        status = _end(child, deadline)
        said.seek(0)
        print(f"{BEGIN}{name}\n{said.read().decode()}\n{END}{name} {status}", flush=True)
    _clean()


def _run(source: str, name: str) -> int:
    return _end(_begin(source, name), time.monotonic() + SECONDS)


def _begin(source: str, name: str, output: typing.IO[bytes] | None = None) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()
        if output is not None:
            os.dup2(output.fileno(), 1)
        try:
            exec(compile(source, name, "exec"), {"__name__": "__main__"})  # noqa: S102
        except BaseException:  # noqa: BLE001 - whatever ends a script, the next one is run
            traceback.print_exc(file=sys.stdout)
        finally:
            sys.stdout.flush()
            os._exit(0)
    return child


def _end(child: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _clean() -> None:
    for folder in WRITABLE:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
