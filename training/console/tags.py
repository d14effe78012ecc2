"""The tags that a list can be narrowed to: those of the newest jobs, name by name.

Tags are free: some jobs have a value of their own in each, and a million jobs have a million of
them. So what is offered are the names that several jobs have, with the values that are frequent;
whatever else there is can be typed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.models import Job

JOBS_READ = 200
NAMES_SHOWN, VALUES_SHOWN = 12, 12
# What is longer than this is no choice.
TAG_CHARACTERS = 80


@dataclass(frozen=True)
class Value:
    """`tag` is what the address of the list has."""

    value: str
    tag: str
    jobs: int


@dataclass(frozen=True)
class Name:
    """A tag's name with its values, the most frequent one first."""

    name: str
    values: Sequence[Value]


def names_to_choose(*, without: Sequence[str]) -> list[Name]:
    """By name, but for tags that are chosen already. One query of the newest jobs' tags."""
    newest = Job.objects.order_by("-created_at", "-id").values_list("tags", flat=True)
    return names_in(newest[:JOBS_READ], without=without)


def names_in(tags: Iterable[Mapping[str, str]], *, without: Sequence[str] = ()) -> list[Name]:
    """The names that most jobs have; of those, only the ones whose values come again."""
    values: dict[str, Counter[str]] = {}
    for of_job in tags:
        for name, value in of_job.items():
            values.setdefault(name, Counter())[value] += 1
    frequent = sorted(values, key=lambda name: (-values[name].total(), name))
    told = [Name(name, _values(name, values[name], without)) for name in frequent]
    shown = [one for one in told if one.values][:NAMES_SHOWN]
    return sorted(shown, key=lambda one: one.name)


def _values(name: str, counts: Counter[str], without: Sequence[str]) -> list[Value]:
    """None of a name that has a value of its own in every job, such as a commit."""
    if len(counts) > VALUES_SHOWN and counts.total() < 2 * len(counts):
        return []
    shown = [
        Value(value, f"{name}={value}", jobs)
        for value, jobs in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        if len(f"{name}={value}") <= TAG_CHARACTERS and f"{name}={value}" not in without
    ]
    return shown[:VALUES_SHOWN]
