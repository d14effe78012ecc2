"""An upload's dry run: everything that can be known of a job before there is one.

The only thing that it may leave is what its requirements resolve to (`resolve`).
"""

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from django.utils import timezone

from sandbox.environments import whole_set
from sandbox.image.lock_file import pins_in
from training.api.submission import Submission
from training.models import Job, Resolution
from training.modules import (
    distributions_in,
    is_brought,
    known_requirement_for,
    requirement_for,
)
from training.script_check import Import, Reading, read_script
from training.services import resolve
from training.services.claim import Room, Waiting, room_left, waiting_of
from training.services.submit import NoSpace, TooManyJobs, check_caps
from training.states import ENDINGS, Fault, Phase, Reason, Status

RESOLVE_WAIT_SECONDS = 4.0
LOOK_SECONDS = 0.2
# A request that waits holds a thread of the web process, and there are few.
WAITERS = 2
FINDINGS_MAX = 100
SCRIPT_FIELD = "script_content"
OUR_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_waiters = threading.BoundedSemaphore(WAITERS)


class Severity(StrEnum):
    """An error is one that the job would end with."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be; with a place where there is one.

    `offers` are requirements any of which would mend it.
    """

    severity: Severity
    code: str
    field: str | None
    detail: str
    hint: str
    line: int | None = None
    column: int | None = None
    offers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """What would become of the upload; `resolution` is None when nobody could be asked."""

    findings: tuple[Finding, ...]
    resolution: Resolution | None
    waiting: Waiting
    room: Room
    job: Job

    @property
    def valid(self) -> bool:
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def validate(submission: Submission, *, owner: str) -> Validation:
    """Raises TooBusy. Waits a few seconds for requirements that nobody has resolved yet."""
    resolution = resolve.ask(submission.requirements, python_version=submission.python_version)
    reading = read_script(submission.script)
    return _validation(submission, reading, _answered(resolution), owner=owner)


def validate_at_once(
    submission: Submission, resolution: Resolution | None, *, owner: str
) -> Validation:
    """The same for somebody who asks again in a moment: with what is known of the requirements.

    Raises TooBusy.
    """
    return _validation(submission, read_script(submission.script), resolution, owner=owner)


def _validation(
    submission: Submission, reading: Reading, resolution: Resolution | None, *, owner: str
) -> Validation:
    room = room_left()
    findings = [
        *_script_findings(reading, python_version=submission.python_version),
        *_import_findings(reading.imports, submission.requirements, resolution),
        *_requirement_findings(resolution),
        *_admission_findings(submission, room, owner=owner),
    ]
    job = _job_that_would_be(submission, owner=owner)
    return Validation(
        findings=tuple(findings[:FINDINGS_MAX]),
        resolution=resolution,
        waiting=waiting_of([job], room=room)[job.pk],
        room=room,
        job=job,
    )


def _answered(resolution: Resolution | None) -> Resolution | None:
    """The same, once a worker has answered; as it is when that takes too long, or others wait."""
    if resolution is None or resolution.status != Resolution.Status.RESOLVING:
        return resolution
    if not _waiters.acquire(blocking=False):
        return resolution
    try:
        until = time.monotonic() + RESOLVE_WAIT_SECONDS
        while resolution.status == Resolution.Status.RESOLVING and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            resolution.refresh_from_db()
    finally:
        _waiters.release()
    return resolution


# -- the script ----------------------------------------------------------------------------------
def _script_findings(reading: Reading, *, python_version: str) -> Iterable[Finding]:
    """The grammar is that of this process: what another Python says of it cannot be told."""
    problem = reading.problem
    if problem is not None:
        hint = f"Look at: {problem.text}" if problem.text else "Mend the line that is named."
        same = python_version == OUR_PYTHON
        yield Finding(
            Severity.ERROR if same else Severity.WARNING,
            Reason.SYNTAX_ERROR,
            SCRIPT_FIELD,
            problem.detail if same else f"{problem.detail} (as Python {OUR_PYTHON} reads it)",
            hint,
            line=problem.line,
            column=problem.column,
        )
        return
    if reading.unread:
        detail = "The script is too large or too deeply nested to be checked here."
        hint = "It may run all the same; move data out of the script, into /data."
        yield Finding(Severity.WARNING, "not_checked", SCRIPT_FIELD, detail, hint)
        return
    if not reading.logs_model:
        yield Finding(
            Severity.WARNING,
            Reason.NO_MODEL_LOGGED,
            SCRIPT_FIELD,
            "The script calls neither log_model nor autolog, as far as can be seen.",
            ENDINGS[Reason.NO_MODEL_LOGGED].hint,
        )


def _import_findings(
    imports: Sequence[Import], requirements: Sequence[str], resolution: Resolution | None
) -> Iterable[Finding]:
    """The first import of each module that nothing brings; one that may fail says nothing.

    Only a lock says for sure what is there: requirements bring others along.
    """
    lock = resolution.lock if resolution is not None else ""
    brought = distributions_in(pins_in(lock) if lock else whole_set(requirements))
    seen: set[str] = set()
    for found in sorted(imports, key=lambda found: not found.certain):
        top = found.module.partition(".")[0]
        if found.guarded or top in seen:
            continue
        seen.add(top)
        if found.module.startswith("."):
            yield _relative_import(found)
        elif not is_brought(found.module, brought):
            yield _missing_module(found, certain=bool(lock) and found.certain)


def _relative_import(found: Import) -> Finding:
    return Finding(
        Severity.ERROR if found.certain else Severity.WARNING,
        "relative_import",
        SCRIPT_FIELD,
        f"{found.module!r} is imported from a package, and a script is in none.",
        "A job has one script and no files beside it: put the code into the script.",
        line=found.line,
        column=found.column,
    )


def _missing_module(found: Import, *, certain: bool) -> Finding:
    top, requirement = found.module.partition(".")[0], requirement_for(found.module)
    known = known_requirement_for(found.module)
    sentence = f"No requirement brings the module {top!r}"
    return Finding(
        Severity.ERROR if certain else Severity.WARNING,
        Reason.MISSING_MODULE,
        "requirements",
        f"{sentence}." if certain else f"{sentence}, as far as is known.",
        f"Add {requirement!r} to requirements. A file of your own cannot be imported: put its "
        "code into the script.",
        line=found.line,
        column=found.column,
        offers=(known,) if known else (),
    )


# -- the rest ------------------------------------------------------------------------------------
def _requirement_findings(resolution: Resolution | None) -> Iterable[Finding]:
    if resolution is None or resolution.status != Resolution.Status.FAILED:
        return
    ours = ENDINGS[Reason(resolution.reason)].fault is Fault.PLATFORM
    yield Finding(
        Severity.WARNING if ours else Severity.ERROR,
        resolution.reason,
        "requirements",
        resolution.detail,
        resolution.hint,
    )


def _admission_findings(submission: Submission, room: Room, *, owner: str) -> Iterable[Finding]:
    try:
        check_caps(owner=owner, experiment=submission.experiment_name, room=room)
    except (TooManyJobs, NoSpace) as refused:
        yield Finding(
            Severity.WARNING, refused.default_code, None, str(refused.detail), refused.hint
        )


def _job_that_would_be(submission: Submission, *, owner: str) -> Job:
    """Never saved: its limits, and its place in the queue."""
    return Job(
        status=Status.QUEUED,
        phase=Phase.WAITING,
        owner=owner,
        priority=submission.priority,
        timeout_seconds=submission.timeout,
        **asdict(submission.limits),
        network=submission.network,
        python_version=submission.python_version,
        created_at=timezone.now(),
    )
