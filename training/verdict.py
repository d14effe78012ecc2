"""Decides why a job ended, from facts alone; pure functions, so that every end can be tested.

The order is: what we did ourselves (cancel, deadline, log quota), the clock, memory, exit code, and
at last whether there is a model. An exit code alone tells little: the launcher's own codes
(`sandbox/image/launcher.py`) tell a script that was killed from a container that was.
"""

import re
import signal
from dataclasses import dataclass
from urllib.parse import urlsplit

from training.modules import missing_module, requirement_for
from training.states import EndReason, Intent, Reason

# Kept equal to `sandbox/image/launcher.py` by a test.
DEADLINE_EXIT_CODE = 124
ASKED_TO_END_EXIT_CODE = 225
LOG_QUOTA_EXIT_CODE = 226
SIGNAL_EXIT_BASE = 160
# A container that was killed itself: by us, by the engine as it went down, or by the host.
CONTAINER_KILLED = frozenset({128 + signal.SIGKILL, 128 + signal.SIGTERM, 255})
SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
# `package.SomeError: words`, or the bare name of an exception without words.
EXCEPTION_LINE = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?P<words>: .*)?$")
TRACEBACK = "Traceback (most recent call last):"
NO_SPACE = "[Errno 28]"
CONNECTION = "onnection"
# MLflow's client says so of an experiment that it could not ask for; the cause stands above it.
MASKED_BY_MLFLOW = "The provided MLFLOW_EXPERIMENT_ID environment variable value"
ERROR_MAX_CHARACTERS = 1000
MIB = 1024 * 1024
# Of a job's memory: at so much the next allocation may be the last.
FULL = 0.95


@dataclass(frozen=True)
class ExitFacts:
    """How the container ended. `seconds` is how long it ran, by the engine's clock.

    `peak_memory_bytes` is the highest use that was seen; 0 when none was. `printed_too_much` says
    whether the script printed more than it may, whatever its exit code.
    """

    exit_code: int
    oom_killed: bool
    intent: str
    seconds: float
    timeout_seconds: int
    grace_seconds: int
    log_tail: str
    output_is_whole: bool = True
    tracking_uri: str = ""
    memory_mb: int = 0
    peak_memory_bytes: int = 0
    printed_too_much: bool = False


def failure_of(facts: ExitFacts) -> EndReason | None:
    """Why the script failed; None when it ended well and its model decides."""
    if facts.intent == Intent.CANCEL:
        return EndReason.of(Reason.CANCELLED)
    if _ran_out_of_time(facts):
        return EndReason.of(
            Reason.TIMEOUT,
            sentence=f"The script was still running after {facts.timeout_seconds} seconds.",
        )
    if facts.intent == Intent.LOG_QUOTA or _was_ended_by_quota(facts):
        return EndReason.of(Reason.LOG_QUOTA)
    if facts.exit_code == 0:
        return None
    if facts.oom_killed or _filled_its_memory(facts):
        return _out_of_memory(facts)
    if facts.exit_code in CONTAINER_KILLED or facts.exit_code == ASKED_TO_END_EXIT_CODE:
        return EndReason.of(
            Reason.ENGINE_UNAVAILABLE, sentence="The job's container was ended from outside."
        )
    if not facts.output_is_whole:
        return EndReason.of(
            Reason.ENGINE_UNAVAILABLE,
            sentence="The engine was down when the script ended, and lost the end of its output.",
        )
    if _signal_of(facts.exit_code):
        return _ended_by_signal(_signal_of(facts.exit_code))
    line = last_exception_line(facts.log_tail)
    if line is not None and _lost_mlflow(line, facts):
        return EndReason.of(
            Reason.TRACKING_UNAVAILABLE, sentence="MLflow did not answer while the script ran."
        )
    if line is None:
        sentence = f"The script ended with exit code {facts.exit_code}."
        return EndReason.of(Reason.SCRIPT_ERROR, sentence=sentence)
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
    """By the clock as well: a launcher that was stopped, or killed in its grace, says nothing."""
    if facts.intent == Intent.DEADLINE:
        return True
    if facts.exit_code == DEADLINE_EXIT_CODE:
        return facts.seconds >= facts.timeout_seconds
    return facts.seconds > facts.timeout_seconds + facts.grace_seconds


def _was_ended_by_quota(facts: ExitFacts) -> bool:
    """By the count as well: the script may end with any exit code."""
    return facts.exit_code == LOG_QUOTA_EXIT_CODE and facts.printed_too_much


def _lost_mlflow(line: str, facts: ExitFacts) -> bool:
    """The script's own client could not reach MLflow, which is ours to keep running.

    The words are those of MLflow's client and of the one below it; a script that prints them gets
    no more than the tries that a job has anyway.
    """
    server = urlsplit(facts.tracking_uri)
    if not server.hostname:
        return False
    request = f"API request to {facts.tracking_uri}"
    address = f"(host='{server.hostname}', port={server.port})"
    if MASKED_BY_MLFLOW in line:
        return request in facts.log_tail
    return CONNECTION in line and (request in line or address in line)


def _filled_its_memory(facts: ExitFacts) -> bool:
    """Killed with its memory all but full: nobody may have been told of what the kernel did.

    An engine can lose the kernel's word when a container ends with the process that was killed, as
    every one does under gVisor.
    """
    killed = facts.exit_code in (128 + signal.SIGKILL, SIGNAL_EXIT_BASE + signal.SIGKILL)
    return killed and 0 < facts.memory_mb * MIB * FULL <= facts.peak_memory_bytes


def _out_of_memory(facts: ExitFacts) -> EndReason:
    peak = facts.peak_memory_bytes // MIB
    seen = f", the most seen was {peak} MiB" if peak else ""
    return EndReason.of(
        Reason.OUT_OF_MEMORY,
        sentence=f"The script needed more memory than it may have: {facts.memory_mb} MiB{seen}.",
    )


def _signal_of(exit_code: int) -> int:
    """0 when no signal ended the script."""
    number = exit_code - SIGNAL_EXIT_BASE
    return number if 0 < number < signal.NSIG else 0


def _ended_by_signal(number: int) -> EndReason:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return EndReason.of(Reason.SCRIPT_KILLED, sentence=f"The script was ended by {name}.")


def _failed_with(line: str) -> EndReason:
    name = line.partition(":")[0].rpartition(".")[2]
    if name in SYNTAX_ERRORS:
        return EndReason.of(Reason.SYNTAX_ERROR, sentence=line)
    if name == "ModuleNotFoundError":
        return _missing_module(line)
    if NO_SPACE in line:
        return EndReason.of(Reason.DISK_FULL, sentence=line)
    return EndReason.of(Reason.SCRIPT_ERROR, sentence=line)


def _missing_module(line: str) -> EndReason:
    module = missing_module(line)
    if module is None:
        return EndReason.of(Reason.MISSING_MODULE, sentence=line)
    hint = f'Add "{requirement_for(module)}" to `requirements` and send the job again.'
    return EndReason.of(Reason.MISSING_MODULE, sentence=line, hint=hint)
