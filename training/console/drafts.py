"""A job as somebody writes it in a form: text in every field, and what it would be as an upload.

What is wrong with a field is said by those who read uploads; here is only what a form adds to that:
names that come twice, secrets that were not typed, and values that are somebody else's to use.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings
from django.http import QueryDict

from training.api.client import upload_limits
from training.api.submission import Submission, submission_of
from training.api.upload_bodies import form_number
from training.api.upload_fields import FIELD_NAME_SHOWN, LIMIT_FIELDS
from training.api.upload_problems import UploadRejected
from training.console.examples import Example
from training.limits import JobLimits, job_bounds
from training.models import Job
from training.rights import Person, may_prioritize, may_use_values
from training.states import Network, Priority

LIMITS = ("timeout", *LIMIT_FIELDS)
TEXTS = ("script_name", "experiment_name", "model_name")
CHOICES = ("python_version", "network", "priority")
Error = dict[str, str]


@dataclass(frozen=True)
class Pair:
    """A variable or a tag, in a line of its own."""

    name: str
    value: str = ""


@dataclass(frozen=True)
class Draft:
    """`kept` are variables of the job that runs again, whose values stay and are never shown."""

    script_name: str = ""
    script: str = ""
    experiment_name: str = ""
    model_name: str = ""
    requirements: str = ""
    python_version: str = ""
    network: str = ""
    priority: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[Pair, ...] = ()
    secrets: tuple[Pair, ...] = ()
    kept: tuple[str, ...] = ()
    tags: tuple[Pair, ...] = ()

    @property
    def requirement_lines(self) -> list[tuple[int, str]]:
        """Each requirement with the number of its line; behind `#` is a note, as pip has it."""
        lines = enumerate(self.requirements.splitlines(), start=1)
        bare = ((number, line.partition(" #")[0].strip()) for number, line in lines)
        return [(number, line) for number, line in bare if line and not line.startswith("#")]

    @property
    def typed(self) -> tuple[Pair, ...]:
        """Every variable that has a value of its own here."""
        return (*self.variables, *self.secrets)


# -- where a draft comes from ----------------------------------------------------------------------
def draft_sent(sent: QueryDict) -> Draft:
    """What was typed. A browser sends every line of a text with CRLF, whatever it was before."""
    return Draft(
        **{name: sent.get(name, "").strip() for name in (*TEXTS, *CHOICES)},
        script=with_plain_ends(sent.get("script_content", "")),
        requirements=with_plain_ends(sent.get("requirements", "")),
        limits={name: sent.get(name, "").strip() for name in LIMITS},
        variables=_pairs(sent, "variable"),
        secrets=_pairs(sent, "secret"),
        kept=tuple(dict.fromkeys(sent.getlist("keep"))),
        tags=_pairs(sent, "tag"),
    )


def draft_of_example(example: Example) -> Draft:
    limits = JobLimits.default(job_bounds())
    return Draft(
        script_name=example.script_name,
        script=example.script,
        experiment_name=example.experiment,
        model_name=example.model,
        requirements="\n".join(example.requirements),
        python_version=settings.PYTHON_VERSIONS[0],
        network=_network(settings.JOB_NETWORK["default"]),
        priority=Priority.NORMAL.word,
        limits=_limits(settings.JOB_TIMEOUT_SECONDS["default"], limits),
    )


def draft_of_job(job: Job, *, person: Person) -> Draft:
    """As it was, as far as that is allowed by now: limits, network, Python, priority."""
    offered = settings.PYTHON_VERSIONS
    highest = Priority.HIGH if may_prioritize(person) else Priority.NORMAL
    timeout = settings.JOB_TIMEOUT_SECONDS
    seconds = min(max(job.timeout_seconds, timeout["minimum"]), timeout["maximum"])
    return Draft(
        script_name=job.script_name,
        script=with_plain_ends(job.script),
        experiment_name=job.experiment_name,
        model_name=job.model_name,
        requirements="\n".join(job.requirements),
        python_version=job.python_version if job.python_version in offered else offered[0],
        network=_network(job.network),
        priority=Priority(min(job.priority, highest)).word,
        limits=_limits(seconds, JobLimits.of(job).within(job_bounds())),
        kept=tuple(sorted(job.environment)),
        tags=tuple(Pair(name, value) for name, value in sorted(job.tags.items())),
    )


def with_plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n")


def _pairs(sent: QueryDict, kind: str) -> tuple[Pair, ...]:
    """Lines that nobody filled in are none; a value without a name is kept, to be complained of."""
    names, values = sent.getlist(f"{kind}_name"), sent.getlist(f"{kind}_value")
    pairs = zip(names, values, strict=False)
    return tuple(Pair(name.strip(), value) for name, value in pairs if name.strip() or value)


def _network(value: str) -> str:
    maximum = Network(settings.JOB_NETWORK["maximum"])
    return str(Network(value).at_most(maximum).value)


def _limits(timeout: int, limits: JobLimits) -> dict[str, str]:
    return {"timeout": str(timeout), **{name: f"{n:.10g}" for name, n in asdict(limits).items()}}


# -- what becomes of it ----------------------------------------------------------------------------
def submission_from(draft: Draft, *, first: Job | None, person: Person) -> Submission:
    """What would be run. `first` is the job that runs again, if one does.

    Raises UploadRejected with all that is wrong.
    """
    fields = fields_of(draft, first=first)
    own = own_errors(draft, first=first, person=person)
    try:
        submission = submission_of(fields, limits=upload_limits())
    except UploadRejected as rejected:
        raise UploadRejected(str(rejected.detail), errors=[*rejected.errors, *own]) from None
    if own:
        raise UploadRejected("The form is not valid.", errors=own)
    return submission


def fields_of(draft: Draft, *, first: Job | None) -> dict[str, Any]:
    """As JSON would have them. What was left empty is left out, so that its default holds."""
    values = first.environment if first else {}
    kept = {name: values[name] for name in draft.kept if name in values}
    texts = {name: getattr(draft, name) for name in (*TEXTS, *CHOICES)}
    numbers = {name: form_number(value) for name, value in draft.limits.items() if value}
    return {
        **{name: value for name, value in texts.items() if value},
        **numbers,
        "script_content": _script(draft, first=first),
        # A text in a form is never meant as anything else.
        "script_encoding": "plain",
        "requirements": [line for _, line in draft.requirement_lines],
        "environment_vars": {**kept, **{pair.name: pair.value for pair in draft.typed}},
        "tags": {pair.name: pair.value for pair in draft.tags},
    }


def own_errors(draft: Draft, *, first: Job | None, person: Person) -> list[Error]:
    """What only a form can get wrong, and what this person may not ask for."""
    return [
        *_twice("environment_vars", (pair.name for pair in draft.typed)),
        *_twice("tags", (pair.name for pair in draft.tags)),
        *_empty_secrets(draft),
        *_values_of_others(draft, first=first, person=person),
        *_priority(draft, person=person),
    ]


def _script(draft: Draft, *, first: Job | None) -> str:
    """Byte for byte the first one's, when nothing but the ends of its lines differ."""
    if first is not None and with_plain_ends(first.script) == draft.script:
        return first.script
    return draft.script


def _twice(name: str, names: Iterable[str]) -> list[Error]:
    """Of two values one would be lost."""
    detail, hint = "This name comes more than once.", "Keep one of them."
    return [
        _error(f"{name}.{one[:FIELD_NAME_SHOWN]}", detail, hint)
        for one, count in Counter(names).items()
        if count > 1
    ]


def _empty_secrets(draft: Draft) -> list[Error]:
    """A page that comes back never has what was typed into them."""
    detail, hint = "The secret has no value.", "Type it (again): it is never sent back to a page."
    return [
        _error(f"environment_vars.{pair.name[:FIELD_NAME_SHOWN]}", detail, hint)
        for pair in draft.secrets
        if not pair.value
    ]


def _values_of_others(draft: Draft, *, first: Job | None, person: Person) -> Sequence[Error]:
    """A script of one's own could print what the first one was given to keep."""
    if first is None or may_use_values(person, first) or _runs_the_same(draft, first):
        return []
    typed = {pair.name for pair in draft.typed}
    detail = "Its value is another person's, and would go to a script or packages of yours."
    hint = "Give it a value of your own, remove it, or leave script and requirements as they were."
    return [
        _error(f"environment_vars.{name[:FIELD_NAME_SHOWN]}", detail, hint)
        for name in draft.kept
        if name in first.environment and name not in typed
    ]


def _runs_the_same(draft: Draft, first: Job) -> bool:
    asked = [line for _, line in draft.requirement_lines]
    return with_plain_ends(first.script) == draft.script and asked == first.requirements


def _priority(draft: Draft, *, person: Person) -> list[Error]:
    if draft.priority != Priority.HIGH.word or may_prioritize(person):
        return []
    detail = "Only an operator may let a job overtake others."
    return [_error("priority", detail, "Send it with normal or low priority.")]


def _error(name: str, detail: str, hint: str) -> Error:
    return {"field": name, "detail": detail, "hint": hint}
