"""What would become of a draft, for somebody who is still writing it: asked again and again.

The services that answer `POST /mlops/training/validate` answer here; nothing is told twice in other
words. A set of requirements is only asked for once it stayed the same from one look to the next:
each is some seconds of a worker, and half a name is no package.
"""

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from django.utils import timezone
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from registry.console import visible
from sandbox.environments import EnvironmentFailed
from sandbox.image.lock_file import pins_in
from training.api.client import upload_limits
from training.api.submission import Submission, submission_of
from training.api.upload_fields import UploadLimits
from training.api.upload_problems import UploadRejected
from training.board import why_it_waits
from training.console.drafts import Draft, Error, fields_of, own_errors
from training.limits import JobLimits
from training.models import Job, Resolution
from training.modules import near_names
from training.rights import Person
from training.script_check import TooBusy
from training.services import resolve
from training.services.validate import Finding, Severity, Validation, validate_at_once
from training.states import Priority, Reason

GOOD, DOUBTFUL, BAD, BUSY, LATER = "completed", "warn", "failed", "running", "todo"
# Soon enough for somebody who stopped typing; a worker takes some seconds for an answer.
SETTLE_MS, RESOLVING_MS, BUSY_MS = 1200, 2000, 3000
# Where what is wrong with a field of the API stands in the form.
SLOT_OF = {"environment_vars": "variables", "script_content": "script", "script_encoding": "script"}
SLOTS = (
    *("script", "script_name", "requirements", "variables", "tags"),
    *("experiment_name", "model_name", "python_version", "network", "priority"),
    *("timeout", "memory_mb", "cpus", "pids", "scratch_mb", "gpus"),
)
OPEN_CODES = (Reason.MISSING_MODULE, "relative_import")
SHOWN_IN_SLOT = 5


@dataclass(frozen=True)
class Offer:
    """A requirement that would mend it: put in the place of a line, or below all of them."""

    requirement: str
    line: int | None = None


@dataclass(frozen=True)
class Problem:
    """What stands beside a field; `refused` when nothing can be sent before it is mended."""

    slot: str
    detail: str
    hint: str
    refused: bool
    line: int | None = None
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the checklist: `state` is a shape, `where` a line of the script."""

    state: str
    words: str
    where: str = ""


@dataclass(frozen=True)
class Verdict:
    """`settled` is to be sent with the next look; `again_ms` is when to look, 0 for never."""

    headline: str
    state: str
    problems: Sequence[Problem]
    lines: Sequence[Line]
    starts: str = ""
    environment: str = ""
    settled: str = ""
    again_ms: int = 0
    call: str = ""

    @property
    def slots(self) -> Mapping[str, Sequence[Problem]]:
        """Of every field, what stands beside it: also nothing, so that what was mended goes."""
        found: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            found[problem.slot].append(problem)
        return {slot: found[slot][:SHOWN_IN_SLOT] for slot in SLOTS}


def look(draft: Draft, *, first: Job | None, person: Person, settled: str, address: str) -> Verdict:
    """`settled` is what the last look said of the requirements, `address` that of the API."""
    limits = upload_limits()
    errors, submission = _read(draft, limits, first=first, person=person)
    problems = [_of_error(error, draft) for error in errors]
    if submission is None:
        return Verdict(_to_mend(problems), BAD, problems, [_fields_line(problems)])
    name = _name_of_set(submission)
    owner = person.get_username()
    try:
        resolution = _resolution(submission, ask=name == settled)
        validation = validate_at_once(submission, resolution, owner=owner)
    except EnvironmentFailed as failed:
        problem = Problem("requirements", failed.detail, failed.hint, refused=False)
        return Verdict(_would_fail([problem]), BAD, [*problems, problem], [], settled=name)
    except TooBusy as busy:
        words = str(busy.detail)
        line = Line(LATER, words)
        return Verdict(words, LATER, problems, [line], settled=name, again_ms=BUSY_MS)
    slots = {problem.slot for problem in problems}
    findings = [one for one in validation.findings if (one.field or "") not in slots]
    found = [_of_finding(one, draft) for one in findings if one.field is not None]
    call = "" if problems else call_of(submission, draft, limits, address=address)
    verdict = _verdict(problems, found, findings, validation, asked=name == settled)
    return replace(verdict, settled=name, again_ms=_again(resolution, name == settled), call=call)


def refusal(errors: Iterable[Error], draft: Draft) -> Verdict:
    """Of a draft that was sent and cannot be taken; what cannot be mended in a field has none."""
    problems = [_of_error(error, draft) for error in errors]
    return Verdict(_to_mend(problems), BAD, problems, [_fields_line(problems)])


# -- reading ---------------------------------------------------------------------------------------
def _read(
    draft: Draft, limits: UploadLimits, *, first: Job | None, person: Person
) -> tuple[list[Error], Submission | None]:
    """Everything that is wrong, and what is left without it; None when too little is."""
    own = own_errors(draft, first=first, person=person)
    fields = fields_of(draft, first=first)
    try:
        return own, submission_of(fields, limits=limits)
    except UploadRejected as rejected:
        refused = rejected.errors
    errors = [*refused, *own]
    wrong = {error["field"].partition(".")[0] for error in refused}
    left: dict[str, Any] = {name: value for name, value in fields.items() if name not in wrong}
    left.setdefault("script_name", "script.py")
    try:
        return errors, submission_of(left, limits=limits)
    except UploadRejected:
        return errors, None


def _name_of_set(submission: Submission) -> str:
    text = "\n".join([submission.python_version, *submission.requirements])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolution(submission: Submission, *, ask: bool) -> Resolution | None:
    find = resolve.ask if ask else resolve.known
    return find(submission.requirements, python_version=submission.python_version)


def _again(resolution: Resolution | None, asked: bool) -> int:  # noqa: FBT001 - a fact, no choice
    if resolution is None:
        return BUSY_MS if asked else SETTLE_MS
    return RESOLVING_MS if resolution.status == Resolution.Status.RESOLVING else 0


# -- what is wrong, and where ----------------------------------------------------------------------
def _of_error(error: Error, draft: Draft) -> Problem:
    base, _, name = error["field"].partition(".")
    detail = f"{name}: {error['detail']}" if name else error["detail"]
    line = _requirement_line(error["detail"], draft) if base == "requirements" else None
    return Problem(SLOT_OF.get(base, base), detail, error["hint"], refused=True, line=line)


def _of_finding(finding: Finding, draft: Draft) -> Problem:
    """The place in the script stands beside the script, and a package beside the packages."""
    slot = SLOT_OF.get(finding.field or "", finding.field or "")
    offers = tuple(Offer(requirement) for requirement in finding.offers)
    line = finding.line
    if finding.code == Reason.REQUIREMENTS_NOT_FOUND:
        line = _named_line(finding.detail, draft)
        offers = _near(line, draft)
    return Problem(slot, finding.detail, finding.hint, False, line, offers)


def _requirement_line(detail: str, draft: Draft) -> int | None:
    """The complaint quotes it."""
    quoted = ((number, repr(line)) for number, line in draft.requirement_lines)
    return next((number for number, line in quoted if line in detail), None)


def _named_line(detail: str, draft: Draft) -> int | None:
    words = {canonicalize_name(word.strip("`'\".,:;()")) for word in detail.split()}
    for number, line in draft.requirement_lines:
        if _package(line) in words:
            return number
    return None


def _package(line: str) -> str:
    try:
        return str(canonicalize_name(Requirement(line).name))
    except InvalidRequirement:
        return ""


def _near(line: int | None, draft: Draft) -> tuple[Offer, ...]:
    asked = dict(draft.requirement_lines).get(line or 0, "")
    return tuple(Offer(name, line) for name in near_names(_package(asked))) if asked else ()


# -- the verdict -----------------------------------------------------------------------------------
def _verdict(
    problems: Sequence[Problem],
    found: Sequence[Problem],
    findings: Sequence[Finding],
    validation: Validation,
    *,
    asked: bool,
) -> Verdict:
    errors = [one for one in findings if one.severity is Severity.ERROR]
    lines = [*_lines(problems, findings, validation, asked=asked)]
    told = [*problems, *found]
    starts, environment = _starts(validation), _environment(validation.resolution)
    if problems:
        return Verdict(_to_mend(problems), BAD, told, lines, starts, environment)
    if errors:
        failing = [_plain_problem(one) for one in errors]
        return Verdict(_would_fail(failing), BAD, told, lines, starts, environment)
    warned = sum(line.state == DOUBTFUL for line in lines)
    if warned:
        words = "1 thing is in doubt" if warned == 1 else f"{warned} things are in doubt"
        return Verdict(f"Would be accepted; {words}", DOUBTFUL, told, lines, starts, environment)
    return Verdict("Would be accepted", GOOD, told, lines, starts, environment)


def _plain_problem(finding: Finding) -> Problem:
    return Problem(finding.field or "", finding.detail, finding.hint, refused=False)


def _to_mend(problems: Sequence[Problem]) -> str:
    count = len(problems)
    places = ", ".join(dict.fromkeys(_place(problem) for problem in problems[:SHOWN_IN_SLOT]))
    things = "1 thing" if count == 1 else f"{count} things"
    return f"{things} to mend before it can be sent: {places}"


def _place(problem: Problem) -> str:
    words = problem.slot.replace("_", " ")
    return f"{words}, line {problem.line}" if problem.line else words


def _would_fail(problems: Sequence[Problem]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"Would be accepted, and fail: {problems[0].detail}{more}"


def _lines(
    problems: Sequence[Problem],
    findings: Sequence[Finding],
    validation: Validation,
    *,
    asked: bool,
) -> Iterator[Line]:
    yield _fields_line(problems)
    yield from _script_lines(findings, python=validation.job.python_version)
    yield from _import_lines(findings, validation.resolution)
    yield _requirements_line(findings, validation.resolution, asked=asked)
    for finding in findings:
        if finding.field is None:
            yield Line(DOUBTFUL, f"{finding.detail} {finding.hint}")


def _fields_line(problems: Sequence[Problem]) -> Line:
    if not problems:
        return Line(GOOD, "Every field is within its bounds")
    count = len({problem.slot for problem in problems})
    return Line(
        BAD, "1 field is to be mended" if count == 1 else f"{count} fields are to be mended"
    )


def _script_lines(findings: Sequence[Finding], *, python: str) -> Iterator[Line]:
    codes = {finding.code: finding for finding in findings}
    problem = codes.get(Reason.SYNTAX_ERROR)
    if problem is not None:
        yield Line(_shape(problem), f"Python cannot read it: {problem.detail}", _at(problem.line))
        return
    unread = codes.get("not_checked")
    if unread is not None:
        yield Line(DOUBTFUL, unread.detail)
        return
    yield Line(GOOD, f"Python {python} reads it")
    silent = codes.get(Reason.NO_MODEL_LOGGED)
    yield Line(DOUBTFUL, silent.detail) if silent else Line(GOOD, "Logs a model")


def _import_lines(findings: Sequence[Finding], resolution: Resolution | None) -> Iterator[Line]:
    missing = [one for one in findings if one.code in OPEN_CODES]
    yield from (Line(_shape(one), one.detail, _at(one.line)) for one in missing)
    if not missing and not any(one.code == Reason.SYNTAX_ERROR for one in findings):
        known = resolution is not None and resolution.lock
        yield Line(GOOD, "Every import is there" if known else "Every import has a requirement")


def _requirements_line(
    findings: Sequence[Finding], resolution: Resolution | None, *, asked: bool
) -> Line:
    if resolution is None:
        later = "Others are resolved first" if asked else "Requirements are looked up in a moment"
        return Line(LATER, later)
    if resolution.status == Resolution.Status.RESOLVING:
        return Line(BUSY, "Requirements are being looked up")
    if resolution.status == Resolution.Status.RESOLVED:
        return Line(GOOD, f"Requirements are {len(pins_in(resolution.lock))} packages")
    failed = [one for one in findings if one.code == resolution.reason]
    return Line(_shape(failed[0]) if failed else BAD, resolution.detail)


def _shape(finding: Finding) -> str:
    return BAD if finding.severity is Severity.ERROR else DOUBTFUL


def _at(line: int | None) -> str:
    return f"line {line}" if line else ""


def _starts(validation: Validation) -> str:
    waiting = validation.waiting
    if not waiting.waiting_for:
        return "Would be taken at once."
    return f"Would wait: {_why(validation)}."


def _why(validation: Validation) -> str:
    waiting = validation.waiting
    why = why_it_waits(validation.job, waiting, room=validation.room, now=timezone.now())
    behind = waiting.position - 1
    if waiting.waiting_for == "turn" or behind == 0:
        return why
    return f"{why}; {behind} {'job is' if behind == 1 else 'jobs are'} before it"


def _environment(resolution: Resolution | None) -> str:
    if resolution is None or resolution.status != Resolution.Status.RESOLVED:
        return ""
    if resolution.installed:
        return "Its environment is there: nothing is installed."
    return "Its environment is built first."


# -- the same as a call ----------------------------------------------------------------------------
def call_of(submission: Submission, draft: Draft, limits: UploadLimits, *, address: str) -> str:
    """For a shell. Values that are not shown are the shell's own variables."""
    typed = {pair.name: pair.value for pair in draft.variables}
    parts = [f"curl -X POST {address}mlops/training/upload"]
    parts.append(f"-F {_quoted(f'script=@{submission.script_name}')}")
    texts = [
        ("experiment_name", submission.experiment_name),
        ("model_name", submission.model_name),
        *(("requirements", line) for line in submission.requirements),
        *(("tags", f"{name}={value}") for name, value in submission.tags),
        *_unusual(submission, limits),
    ]
    parts += [f"--form-string {_quoted(f'{name}={value}')}" for name, value in texts]
    for name, _ in submission.environment:
        if name in typed:
            parts.append(f"--form-string {_quoted(f'environment_vars={name}={typed[name]}')}")
        else:
            parts.append(f'--form-string environment_vars={name}="${name}"')
    return " \\\n  ".join(parts)


def _unusual(submission: Submission, limits: UploadLimits) -> Iterator[tuple[str, str]]:
    """What would be something else if it was not asked for."""
    usual = asdict(JobLimits.default(limits.job))
    asked: dict[str, tuple[Any, Any]] = {
        "timeout": (submission.timeout, limits.timeout["default"]),
        **{name: (value, usual[name]) for name, value in asdict(submission.limits).items()},
        "python_version": (submission.python_version, limits.pythons[0]),
        "network": (submission.network.value, limits.network["default"]),
        "priority": (submission.priority.word, Priority.NORMAL.word),
    }
    return ((name, f"{value}") for name, (value, other) in asked.items() if value != other)


def _quoted(text: str) -> str:
    return shlex.quote(visible(text))
