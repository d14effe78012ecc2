"""Which line of its script a job failed in, by the last traceback that it printed."""

import re
from collections.abc import Sequence

from training import logs
from training.models import Attempt, Job
from training.states import Status
from training.verdict import TRACEBACK

TAIL_BYTES = 32 * 1024
# As the container has it (`sandbox.container.SCRIPT_PATH`).
FRAME = r'^  File "/job/{name}", line (\d+)'


def failed_line(job: Job, attempts: Sequence[Attempt]) -> int | None:
    """The innermost one, counted from 1; None where no traceback names a line of the script."""
    if job.status != Status.FAILED or not attempts:
        return None
    printed = logs.tail_of(attempts[-1], size=TAIL_BYTES)
    return line_in(printed, script_name=job.script_name)


def line_in(printed: str, *, script_name: str) -> int | None:
    """The script prints what it likes: whoever shows the line looks whether there is one."""
    last = printed.rpartition(TRACEBACK)[2]
    found = re.findall(FRAME.format(name=re.escape(script_name)), last, re.MULTILINE)
    return int(found[-1][:9]) if found else None
