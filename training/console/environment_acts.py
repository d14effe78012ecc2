"""What may be done to environments: said before, with what each step does, and told afterwards.

Nothing here writes a row: each environment goes through the service that the API calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rest_framework.exceptions import APIException

from registry.console import span
from registry.list_queries import LIMIT_MAX
from training.console.environment_rows import Needer, Row, rows_of, size_in_words
from training.environment_listing import LONG_COLUMNS
from training.models import BuiltEnvironment
from training.rights import Person, may_change_environments
from training.services import environments

LINES_TOLD = 10
NEEDERS_NAMED = 3
State, Asked = BuiltEnvironment.State, BuiltEnvironment.Asked


class Action(StrEnum):
    REBUILD = "rebuild"
    DELETE = "delete"

    @property
    def verb(self) -> str:
        return "Build" if self is Action.REBUILD else "Delete"


@dataclass(frozen=True)
class Step:
    """What would happen to one environment; nothing when it does not `act`."""

    row: Row
    says: str
    acts: bool


@dataclass(frozen=True)
class Plan:
    """The question that is asked before anything is done."""

    action: Action
    steps: Sequence[Step]

    @property
    def count(self) -> int:
        return sum(step.acts for step in self.steps)

    @property
    def what(self) -> str:
        """`Delete 3 environments`, `Build 1 environment again`."""
        noun = f"{self.count} environment{'' if self.count == 1 else 's'}"
        return f"{self.action.verb} {noun}{' again' if self.action is Action.REBUILD else ''}"

    @property
    def explanation(self) -> str:
        if self.action is Action.REBUILD:
            return (
                "Each is installed anew from its lock: the same files, by their hashes. While that "
                "lasts it is not there, and a job or model that wants it waits for it."
            )
        freed = sum(step.row.environment.size_bytes for step in self.steps if step.acts)
        size = f"Frees up to {size_in_words(freed)}: files that others share stay. "
        return (
            f"{size if freed else ''}Each is looked at once more when it is deleted: one that "
            "somebody needs by then stays. The locks are kept: the next job with the same "
            "requirements has its environment built again."
        )


@dataclass(frozen=True)
class Outcome:
    """What was asked for and what was refused, a line for each environment."""

    action: Action
    done: Sequence[str]
    refused: Sequence[str]

    @property
    def told(self) -> str:
        did = "built again" if self.action is Action.REBUILD else "deleted"
        return _lines(f"{_count(self.done)} will be {did}.", self.done)

    @property
    def refusals(self) -> str:
        return _lines(f"{_count(self.refused)} left as before.", self.refused)


def chosen(keys: Sequence[str]) -> list[Row]:
    """Those of the keys that there are, at most a page of them."""
    rows = BuiltEnvironment.objects.filter(pk__in=keys[:LIMIT_MAX]).defer(*LONG_COLUMNS)
    return rows_of(rows.order_by("-created_at", "-key"))


def plan_of(action: Action, rows: Sequence[Row], *, person: Person) -> Plan:
    return Plan(action, [step_of(action, row, person=person) for row in rows])


def step_of(action: Action, row: Row, *, person: Person) -> Step:
    if not may_change_environments(person):
        return Step(row, "stays: only an operator may do this", acts=False)
    if row.environment.state == State.BUILDING:
        return Step(row, "is being built: nothing happens", acts=False)
    if row.environment.asked == action:
        return Step(row, f"{row.detail} already: nothing happens", acts=False)
    return _rebuild_step(row) if action is Action.REBUILD else _delete_step(row)


def carry_out(action: Action, rows: Sequence[Row], *, person: Person) -> Outcome:
    """Asks for what may be done; one that is refused keeps none of the others from it."""
    ask = environments.ask_rebuild if action is Action.REBUILD else environments.ask_delete
    done, refused = [], []
    for row in rows:
        step, name = step_of(action, row, person=person), _name(row)
        if not step.acts:
            refused.append(f"{name} {step.says}")
            continue
        try:
            ask(row.environment.key)
        except APIException as error:
            refused.append(f"{name}: {error.detail}")
        else:
            done.append(name)
    return Outcome(action, done, refused)


def _rebuild_step(row: Row) -> Step:
    if row.users:
        return Step(row, f"stays while it is in use: {_named(row.users)}", acts=False)
    if not row.environment.packages:
        return Step(row, "has no lock: send a job with the same requirements", acts=False)
    seconds = row.environment.build_seconds
    last = f", in about {span(seconds)}" if seconds else ""
    return Step(row, f"is built again from its lock{last}", acts=True)


def _delete_step(row: Row) -> Step:
    if row.users:
        return Step(row, f"stays while it is in use: {_named(row.users)}", acts=False)
    if row.models:
        return Step(row, f"stays: {_named(row.models)} was made in it", acts=False)
    if row.environment.state == State.GONE:
        return Step(row, "is gone already: nothing happens", acts=False)
    return Step(row, f"goes{f': {row.size}' if row.size else ''}", acts=True)


def _named(needers: Sequence[Needer]) -> str:
    words = [needer.words for needer in needers]
    more = len(words) - NEEDERS_NAMED
    return ", ".join(words[:NEEDERS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _name(row: Row) -> str:
    return f"{row.name} {row.short_key}".strip()


def _count(lines: Sequence[str]) -> str:
    return "1 environment" if len(lines) == 1 else f"{len(lines)} environments"


def _lines(headline: str, lines: Sequence[str]) -> str:
    more = len(lines) - LINES_TOLD
    told = [headline, *lines[:LINES_TOLD]]
    return "\n".join([*told, f"and {more} more"] if more > 0 else told)
