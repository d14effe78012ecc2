"""The first process of a job container: runs the script once and keeps its deadline.

It runs on the script's own Python and uses the standard library only. The script is a child in its
own process group, never process 1 itself: signals that process 1 sends itself are ignored.

Exit codes: the script's own; 128 + n when signal n ended it; 124 when its time was over.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from types import FrameType

DEADLINE_EXIT_CODE = 124
LONGEST_WAIT_SECONDS = 1.0


class Script:
    """The running script, its process group and the moment when its time is over."""

    def __init__(self, path: str, *, seconds: float, grace_seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", path], cwd="/scratch", start_new_session=True
        )
        self._deadline = time.monotonic() + seconds
        self._grace_seconds = grace_seconds

    def end_early(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: asks the script to end and leaves it the grace, no more."""
        self._signal(signal.SIGTERM)
        self._deadline = min(self._deadline, time.monotonic() + self._grace_seconds)

    def wait(self) -> int:
        """The exit code. Waits in steps, since a signal may bring the deadline forward."""
        while True:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                return self._end_by_deadline()
            try:
                code = self._process.wait(timeout=min(remaining, LONGEST_WAIT_SECONDS))
            except subprocess.TimeoutExpired:
                continue
            return 128 - code if code < 0 else code

    def _end_by_deadline(self) -> int:
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=self._grace_seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        return DEADLINE_EXIT_CODE

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deadline-seconds", type=float, required=True)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("script")
    arguments = parser.parse_args()
    script = Script(
        arguments.script,
        seconds=arguments.deadline_seconds,
        grace_seconds=arguments.grace_seconds,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, script.end_early)
    return script.wait()


if __name__ == "__main__":
    sys.exit(main())
