"""The buttons on the page of one job: those that apply now, and why one of them cannot be used."""

from dataclasses import dataclass
from datetime import datetime

from training.console import bulk
from training.console.bulk import Action
from training.models import Job
from training.rights import Person
from training.states import TERMINAL, Status


@dataclass(frozen=True)
class Control:
    """`why_not` is empty for one that can be used."""

    action: Action
    words: str
    icon: str = ""
    why_not: str = ""


def controls_of(job: Job, *, person: Person, now: datetime) -> list[Control]:
    """What one may never do is absent, and so is what makes no sense of a job in this state."""
    return [
        _control(action, job, person=person, now=now)
        for action in bulk.actions_for(person)
        if _applies(action, job)
    ]


def _applies(action: Action, job: Job) -> bool:
    if action is Action.CANCEL:
        return job.status not in TERMINAL
    if action is Action.RERUN:
        return True
    return job.status == Status.QUEUED and action.priority != job.priority


def _control(action: Action, job: Job, *, person: Person, now: datetime) -> Control:
    looks = {Action.CANCEL: ("Cancel", "stop"), Action.RERUN: ("Rerun", "rerun")}
    words, icon = looks.get(action, (f"{action.value.capitalize()} priority", ""))
    step = bulk.step_of(action, job, person=person, now=now)
    if step.acts:
        return Control(action, words, icon)
    return Control(action, words, icon, f"This job {step.says.partition(': nothing')[0]}.")
