"""The fast lane of a server: makes the compact form beside the running model, and answers from it.

The form is made by a process of its own at the lowest priority, which the kernel ends first when
memory runs out. What comes of it is data; nothing of it is run.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from served_answers import attempt, encoded
from served_columns import LeftToOriginal
from served_compact import COMPACT, OURS, OUTCOME, CompactModel, CompactUnreadable
from served_desk import answer_of, question_in, refusal_of
from served_http import Reply
from served_inputs import check_probabilities, told_together
from served_trees import TreesUnreadable

MAKER = Path(__file__).with_name("make_compact.py")
MAKE_SECONDS = 300
OUTCOME_BYTES = 64 * 1024
# The maker holds the model a second time, and what it is compared with.
MEMORY_SHARE = 0.4
REASON_CHARACTERS = 300
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Lane:
    """How far the compact form is: none, trying, kept or refused; `content` is the file."""

    state: str
    reason: str
    proof: Any = None
    content: bytes = b""

    def document(self) -> dict[str, Any]:
        return {"state": self.state, "reason": self.reason, "proof": self.proof}


class CompactDesk:
    """Answers with the compact form; None for what the original must answer."""

    def __init__(self, model: CompactModel) -> None:
        self.model = model

    def answer(self, bodies: Sequence[bytes], queued: Sequence[float]) -> list[Reply | None]:
        return [self._one(body, waited) for body, waited in zip(bodies, queued, strict=True)]

    def _one(self, body: bytes, queued: float) -> Reply | None:
        reply, error = attempt(lambda: self._reply(body, queued))
        return refusal_of(error) if error else reply

    def _reply(self, body: bytes, queued: float) -> Reply | None:
        inputs, probabilities = question_in(body)
        about = self.model.about
        refused = check_probabilities(probabilities, about.has_probabilities, about.name)
        prepared = told_together(refused, lambda: self.model.prepare(inputs))
        if prepared is None:
            return None
        try:
            result = self.model.answer(prepared, probabilities=probabilities)
        except LeftToOriginal:
            return None
        return answer_of(
            encoded(result), result, queued=queued, requests=1, rows=len(prepared), lane="compact"
        )


def read_refusal(folder: Path) -> Lane | None:
    """The outcome of a trial that the model did not pass; it is not made again."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((folder / OURS / OUTCOME).read_text())
        if told["state"] == "refused":
            return Lane("refused", str(told["reason"])[:REASON_CHARACTERS], told["proof"])
    return None


def read_compact(folder: Path) -> tuple[CompactModel, Lane] | None:
    """A form that was kept, and how it came to be; None when there is none to be read."""
    try:
        content = (folder / OURS / COMPACT).read_bytes()
        model = CompactModel(content)
    except FileNotFoundError:
        return None
    except (OSError, CompactUnreadable, TreesUnreadable) as error:
        print(f"The compact form is not used: {error}", file=sys.stderr, flush=True)
        return None
    reason = "Every answer agreed with the original's."
    return model, Lane("kept", reason, model.proof, content)


def make_compact(folder: Path, *, tolerance: str, started: Callable[[int], None]) -> Lane:
    """Blocks until the maker has ended, which `started` is told the process id of."""
    if _memory_is_short():
        return Lane("refused", "The server has no memory for a second copy of the model.")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(MAKER), "--model", str(folder), "--out", out]
        process = subprocess.Popen(
            [*command, "--tolerance", tolerance],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=_last_in_line,  # noqa: PLW1509 (a few system calls; nothing is imported)
            start_new_session=True,
        )
        started(process.pid)
        try:
            errors = process.communicate(timeout=MAKE_SECONDS)[1]
        except subprocess.TimeoutExpired:
            end_group(process.pid)
            process.communicate()
            return Lane("refused", f"Its trial took longer than {MAKE_SECONDS} s.")
        if process.returncode:
            told = errors.decode(errors="replace").strip().splitlines()[-1:]
            why = f"exit code {process.returncode}"
            return Lane("refused", f"Its trial failed: {(told or [why])[0][:REASON_CHARACTERS]}")
        return _outcome(Path(out))


def end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _outcome(out: Path) -> Lane:
    with (out / OUTCOME).open("rb") as file:
        told = json.loads(file.read(OUTCOME_BYTES))
    reason = str(told["reason"])[:REASON_CHARACTERS]
    if told["state"] != "kept":
        return Lane("refused", reason, told["proof"])
    return Lane("kept", reason, told["proof"], (out / COMPACT).read_bytes())


def _last_in_line() -> None:
    os.nice(19)
    Path("/proc/self/oom_score_adj").write_text("1000")


def _memory_is_short() -> bool:
    """Whether a second copy of what is held now may not fit; unknown is enough."""
    for used, limit in (("memory.current", "memory.max"), _VERSION_ONE):
        with contextlib.suppress(OSError, ValueError):
            share = int((CGROUP / used).read_text()) / int((CGROUP / limit).read_text())
            return share > MEMORY_SHARE
    return False


_VERSION_ONE = ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes")
