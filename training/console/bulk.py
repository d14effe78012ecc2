"""What may be done to jobs, to one or to several at once: said before, and told afterwards.

Nothing here writes a row: each job goes through the service that the API calls.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.conf import settings
from django.utils import timezone
from rest_framework.exceptions import APIException

from registry.console import span
from registry.list_queries import LIMIT_MAX
from training.api.submission import Edits
from training.models import Job
from training.rights import Person, may_cancel, may_prioritize, may_send
from training.services.cancel import cancel
from training.services.priority import set_priority
from training.services.submit import Client, rerun
from training.states import TERMINAL, Phase, Priority, Status

LINES_TOLD = 10
COLUMNS = (
    *("script_name", "status", "phase", "reason", "owner", "priority", "started_at"),
    "cancel_requested_at",
)


class Action(StrEnum):
    CANCEL = "cancel"
    RERUN = "rerun"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def priority(self) -> Priority | None:
        """None when it is no matter of priority."""
        return next((one for one in Priority if one.word == self.value), None)


@dataclass(frozen=True)
class Step:
    """What would happen to one job; nothing when it does not `act`."""

    job: Job
    says: str
    acts: bool

    @property
    def short_id(self) -> str:
        return str(self.job.pk)[:8]


@dataclass(frozen=True)
class Plan:
    """The question that is asked before anything is done."""

    action: Action
    steps: Sequence[Step]

    @property
    def count(self) -> int:
        return sum(step.acts for step in self.steps)

    @property
    def verb(self) -> str:
        if self.action is Action.CANCEL:
            return "Cancel"
        return "Rerun" if self.action is Action.RERUN else f"Set {self.action} priority of"

    @property
    def what(self) -> str:
        """`Cancel 3 jobs`."""
        return f"{self.verb} {self.count} job{'' if self.count == 1 else 's'}"

    @property
    def explanation(self) -> str:
        if self.action is Action.CANCEL:
            seconds = settings.JOB_GRACE_SECONDS
            return (
                f"A running script is asked to end, and killed if it still runs after {seconds} s. "
                "What it logged to MLflow stays. A cancelled job can be run again."
            )
        if self.action is Action.RERUN:
            return (
                "Each new job has the same script, variables, requirements and limits. The jobs "
                "that are here stay as they are."
            )
        return (
            "Higher priorities are taken first; within one, users take turns. Only jobs that wait "
            "can be moved."
        )


@dataclass(frozen=True)
class Deed:
    """What was done to one job, in words; `made` is the job that came of it."""

    says: str
    made: uuid.UUID | None = None


@dataclass(frozen=True)
class Outcome:
    """What was done and what was not, a line for each job; `made` are the new ones."""

    action: Action
    done: Sequence[str]
    refused: Sequence[str]
    made: Sequence[uuid.UUID] = ()

    @property
    def told(self) -> str:
        """Of what was done."""
        words = {Action.CANCEL: "cancelled or being stopped", Action.RERUN: "run again"}
        did = words.get(self.action, f"moved to {self.action} priority")
        return _lines(f"{_jobs(self.done)} {did}.", self.done)

    @property
    def refusals(self) -> str:
        return _lines(f"{_jobs(self.refused)} left as before.", self.refused)


def chosen_jobs(values: Sequence[str]) -> list[Job]:
    """Those of the ids that there are, at most a page of them, in the order of a list."""
    ids = [job_id for value in values[:LIMIT_MAX] if (job_id := id_of(value))]
    return list(Job.objects.only(*COLUMNS).filter(pk__in=ids).order_by("-created_at", "-id"))


def actions_for(person: Person) -> list[Action]:
    """What to offer: an action that one may never use is absent."""
    offered = [Action.CANCEL, Action.RERUN] if may_send(person) else []
    if may_prioritize(person):
        offered += [action for action in Action if action.priority is not None]
        offered += [] if Action.CANCEL in offered else [Action.CANCEL]
    return offered


def plan_of(action: Action, jobs: Sequence[Job], *, person: Person, now: datetime) -> Plan:
    return Plan(action, [step_of(action, job, person=person, now=now) for job in jobs])


def carry_out(action: Action, jobs: Sequence[Job], *, person: Person) -> Outcome:
    """Does what may be done, job by job; one that is refused keeps none of the others from it."""
    done: list[str] = []
    refused: list[str] = []
    made: list[uuid.UUID] = []
    now = timezone.now()
    for job in jobs:
        step = step_of(action, job, person=person, now=now)
        name = f"{job.script_name} {step.short_id}"
        if not step.acts:
            refused.append(f"{name} {step.says}")
            continue
        try:
            deed = _do(action, job, actor=person.get_username())
        except APIException as error:
            refused.append(f"{name}: {error.detail}")
        except Job.DoesNotExist:
            refused.append(f"{name}: It was deleted meanwhile.")
        else:
            done.append(f"{name}: {deed.says}")
            made += [deed.made] if deed.made else []
    return Outcome(action, done, refused, made)


def step_of(action: Action, job: Job, *, person: Person, now: datetime) -> Step:
    if action is Action.CANCEL:
        return _cancel_step(job, person=person, now=now)
    if action is Action.RERUN:
        if not may_send(person):
            return Step(job, "stays: your account may not send jobs", acts=False)
        return Step(job, "runs again as a new job of yours", acts=True)
    return _priority_step(job, action.priority or Priority.NORMAL, person=person)


def _cancel_step(job: Job, *, person: Person, now: datetime) -> Step:
    if job.status in TERMINAL:
        return Step(job, f"has ended already ({job.status}): nothing happens", acts=False)
    if not may_cancel(person, job):
        return Step(job, "is not yours: only an operator may cancel it", acts=False)
    if job.cancel_requested_at is not None:
        return Step(job, "is being stopped already: nothing happens", acts=False)
    if job.status == Status.QUEUED:
        return Step(job, "leaves the queue", acts=True)
    if job.phase == Phase.REGISTERING:
        says = "has run; unless its model is registered already, it will not be"
        return Step(job, says, acts=True)
    if job.phase in (Phase.TRAINING, Phase.STOPPING) and job.started_at is not None:
        taken = span((now - job.started_at).total_seconds())
        return Step(job, f"is stopped, {taken} after it began", acts=True)
    return Step(job, "is stopped before its script starts", acts=True)


def _priority_step(job: Job, priority: Priority, *, person: Person) -> Step:
    if not may_prioritize(person):
        return Step(job, "stays: only an operator may move jobs in the queue", acts=False)
    if job.status in TERMINAL:
        return Step(job, f"has ended already ({job.status}): nothing happens", acts=False)
    if job.status != Status.QUEUED:
        return Step(job, "runs already: nothing happens", acts=False)
    before = Priority(job.priority)
    if before == priority:
        return Step(job, f"has {priority.word} priority already", acts=False)
    return Step(job, f"goes from {before.word} to {priority.word} priority", acts=True)


def _do(action: Action, job: Job, *, actor: str) -> Deed:
    """What came of it. Raises what the services raise."""
    does: dict[Action, Callable[[Job, str], Deed]] = {
        Action.CANCEL: _do_cancel,
        Action.RERUN: _do_rerun,
    }
    if action in does:
        return does[action](job, actor)
    priority = action.priority or Priority.NORMAL
    moved = set_priority(job.pk, priority, actor=actor)
    return Deed(f"{moved.get_priority_display()} priority.")


def _do_cancel(job: Job, actor: str) -> Deed:
    return Deed(cancel(job.pk, actor=actor).detail)


def _do_rerun(job: Job, actor: str) -> Deed:
    whole = Job.objects.get(pk=job.pk)
    again = rerun(whole, Edits(), client=Client(owner=actor)).job
    return Deed(f"runs again as {str(again.pk)[:8]}.", made=again.pk)


def id_of(value: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(value)
    except ValueError:
        return None


def _jobs(lines: Sequence[str]) -> str:
    return "1 job" if len(lines) == 1 else f"{len(lines)} jobs"


def _lines(headline: str, lines: Sequence[str]) -> str:
    more = len(lines) - LINES_TOLD
    told = [headline, *lines[:LINES_TOLD]]
    return "\n".join([*told, f"and {more} more"] if more > 0 else told)
