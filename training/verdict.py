"""Decides why a job ended, from facts alone; pure functions, so that every end can be tested.

The order is: what we did ourselves (deadline), memory, exit code, and at last whether there is a
model. An exit code alone tells little: 137 is the memory limit, our own kill or the host's.
"""

import re
import signal
from dataclasses import dataclass

from training.states import EndReason, Reason

DEADLINE_INTENT = "deadline"
DEADLINE_EXIT_CODE = 124
SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
# `package.SomeError: words`, or the bare name of an exception without words.
EXCEPTION_LINE = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?P<words>: .*)?$")
TRACEBACK = "Traceback (most recent call last):"
ERROR_MAX_CHARACTERS = 1000


@dataclass(frozen=True)
class ExitFacts:
    """How the container ended. `seconds` is how long it ran, by the engine's clock."""

    exit_code: int
    oom_killed: bool
    intent: str
    seconds: float
    timeout_seconds: int
    log_tail: str


def failure_of(facts: ExitFacts) -> EndReason | None:
    """Why the script failed; None when it ended well and its model decides."""
    if _ran_out_of_time(facts):
        return EndReason.of(
            Reason.TIMEOUT,
            sentence=f"The script was still running after {facts.timeout_seconds} seconds.",
        )
    if facts.exit_code == 0:
        return None
    if facts.oom_killed:
        return EndReason.of(Reason.OUT_OF_MEMORY)
    line = last_exception_line(facts.log_tail)
    if facts.exit_code > 128:
        return _ended_by_signal(facts.exit_code - 128)
    if line is None:
        sentence = f"The script ended with exit code {facts.exit_code}."
        return EndReason.of(Reason.SCRIPT_FAILED, sentence=sentence)
    return _failed_with(line)


def last_exception_line(log: str) -> str | None:
    """The line that ends the last traceback, such as `ValueError: no data`; None without one."""
    lines = log.splitlines()
    found: str | None = None
    inside = False
    for line in lines:
        if line.startswith(TRACEBACK) or line.startswith('  File "'):
            inside = True
            continue
        if not inside or line.startswith((" ", "\t")) or not line.strip():
            continue
        if EXCEPTION_LINE.match(line):
            found = line
            inside = False
    return found[:ERROR_MAX_CHARACTERS] if found else None


def _ran_out_of_time(facts: ExitFacts) -> bool:
    if facts.intent == DEADLINE_INTENT:
        return True
    return facts.exit_code == DEADLINE_EXIT_CODE and facts.seconds >= facts.timeout_seconds


def _ended_by_signal(number: int) -> EndReason:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    sentence = f"The script was ended by {name}."
    return EndReason.of(Reason.KILLED, sentence=sentence)


def _failed_with(line: str) -> EndReason:
    name = line.partition(":")[0].rpartition(".")[2]
    if name in SYNTAX_ERRORS:
        return EndReason.of(Reason.SYNTAX_ERROR, sentence=line)
    if name == "ModuleNotFoundError":
        return EndReason.of(Reason.MODULE_MISSING, sentence=line)
    return EndReason.of(Reason.SCRIPT_FAILED, sentence=line)
