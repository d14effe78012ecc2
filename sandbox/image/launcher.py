"""The first process of a job container: runs the script once, keeps its deadline, reaps.

It runs on the script's own Python and uses the standard library only. The script is a child in its
own process group, never process 1 itself: signals that process 1 sends itself are ignored.

Exit codes: the script's own; 124 when its time was over; 160 + n when signal n ended it; 225 when
this process itself was asked to end. Not 128 + n: 137 has to mean that the container was killed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

DEADLINE_EXIT_CODE = 124
SIGNAL_EXIT_BASE = 160
ASKED_TO_END_EXIT_CODE = 225
ASKING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
WATCHED = ASKING | {signal.SIGCHLD}


class Script:
    """The running script, its process group and the moment when its time is over."""

    def __init__(self, path: str, *, seconds: float, grace_seconds: float) -> None:
        self._pid = subprocess.Popen(
            [sys.executable, "-u", path],
            cwd="/scratch",
            start_new_session=True,
            # What is blocked here would stay blocked in the script.
            preexec_fn=_unblock,  # noqa: PLW1509 - there is one thread
        ).pid
        self._end_at = time.monotonic() + seconds
        self._grace_seconds = grace_seconds
        self._ended_by_us: int | None = None

    def wait(self) -> int:
        """Waits for the script, its deadline, or somebody who asks for the end. The exit code."""
        while True:
            news = signal.sigtimedwait(WATCHED, max(0.0, self._end_at - time.monotonic()))
            if news is None:
                self._time_is_over()
            elif news.si_signo == signal.SIGCHLD:
                code = self._reap()
                if code is not None:
                    return code if self._ended_by_us is None else self._ended_by_us
            elif _is_from_outside(news):
                self._end(ASKED_TO_END_EXIT_CODE)

    def _time_is_over(self) -> None:
        if self._ended_by_us is None:
            self._end(DEADLINE_EXIT_CODE)
            return
        self._signal(signal.SIGKILL)
        self._end_at = time.monotonic() + self._grace_seconds

    def _end(self, exit_code: int) -> None:
        """Asks the script to end and leaves it the grace, once."""
        if self._ended_by_us is not None:
            return
        self._ended_by_us = exit_code
        self._signal(signal.SIGTERM)
        # A script that stopped itself acts on nothing but SIGKILL and this.
        self._signal(signal.SIGCONT)
        self._end_at = time.monotonic() + self._grace_seconds

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return

    def _reap(self) -> int | None:
        """Takes in every child that has ended; the exit code when the script is among them."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if pid == self._pid:
                ended = os.waitstatus_to_exitcode(status)
                code = SIGNAL_EXIT_BASE - ended if ended < 0 else ended


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _is_from_outside(news: signal.struct_siginfo) -> bool:
    """The script may not end its own launcher: a sender outside the container has no id in it."""
    return os.getpid() != 1 or news.si_pid == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deadline-seconds", type=float, required=True)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("script")
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    script = Script(
        arguments.script,
        seconds=arguments.deadline_seconds,
        grace_seconds=arguments.grace_seconds,
    )
    return script.wait()


if __name__ == "__main__":
    sys.exit(main())
