"""What can be said of a script before it runs: is it Python, and what does it import.

The script is read by a process of its own (`script_reader`), without rights, bounded in time and
memory, and never run. At most a few at once: each may take as much memory as the reader is allowed.
"""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from rest_framework.exceptions import APIException

READER = Path(__file__).with_name("script_reader.py")
SECONDS = 10.0
AT_ONCE = 2
# A request that waits holds a thread of the web process.
WAIT_SECONDS = 2.0
_readers = threading.BoundedSemaphore(AT_ONCE)


class TooBusy(APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "too_busy"
    default_detail = "Too many scripts are being checked at this moment."
    wait = 5
    hint = "Send it again in a moment; uploads are not held up by this."


@dataclass(frozen=True)
class Import:
    """`certain`: it always runs; `guarded`: the script expects that it may fail.

    A `module` that begins with a dot is a relative import.
    """

    module: str
    line: int
    column: int
    certain: bool
    guarded: bool


@dataclass(frozen=True)
class SyntaxProblem:
    """`line` and `column` count from 1; None where Python does not say."""

    detail: str
    line: int | None
    column: int | None
    text: str

    def as_python_prints_it(self, path: str) -> str:
        """With the line and a mark below the column, as a traceback ends."""
        line = self.text.lstrip()
        told = [f'  File "{path}", line {self.line or 1}']
        if line:
            told.append(f"    {line}")
            column = (self.column or 0) - (len(self.text) - len(line))
            told += [" " * (column + 3) + "^"] if 0 < column <= len(line) + 1 else []
        return "\n".join([*told, self.detail, ""])


@dataclass(frozen=True)
class Reading:
    """What was found. `unread`: the script is too much to be read here, which says nothing."""

    problem: SyntaxProblem | None = None
    imports: tuple[Import, ...] = ()
    logs_model: bool = False
    unread: bool = False


def read_script(script: str) -> Reading:
    """Raises TooBusy when others have been read for too long."""
    if not _readers.acquire(timeout=WAIT_SECONDS):
        raise TooBusy
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(READER)],
            input=script.encode(),
            capture_output=True,
            timeout=SECONDS,
            # Nothing of ours: a script that finds a mistake in Python's parser finds no secret.
            env={},
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        return Reading(unread=True)
    finally:
        _readers.release()
    return Reading(unread=True) if done.returncode else _reading(done.stdout)


def _reading(output: bytes) -> Reading:
    found = json.loads(output)
    if "error" in found:
        return Reading(problem=SyntaxProblem(**found["error"]))
    if "unread" in found:
        return Reading(unread=True)
    imports = tuple(Import(**entry) for entry in found["imports"])
    return Reading(imports=imports, logs_model=found["logs_model"])
