"""Environments as a list shows them: a state in words, what people call them by, who needs them."""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from training.environment_listing import versions_in
from training.models import BuiltEnvironment, Job
from training.services.environment_needs import models_in, users_of

# What people call an environment by whose jobs nobody knows, the most telling first.
WELL_KNOWN = (
    *("torch", "tensorflow", "xgboost", "lightgbm", "catboost", "transformers", "statsmodels"),
    *("scikit-learn", "prophet", "polars", "pandas"),
)
NAMED = 3
MB = 1_000_000
GB = 1000 * MB
MODEL = re.compile(r"model (?P<name>.+) version (?P<version>\S+)", re.DOTALL)
JOB = re.compile(r"job (?P<id>[0-9a-f-]{36})")
State = BuiltEnvironment.State


@dataclass(frozen=True)
class Needer:
    """Who has an environment or needs it: `job` and `model` are empty for somebody else."""

    words: str
    job: uuid.UUID | None = None
    model: str = ""
    version: str = ""


@dataclass(frozen=True)
class Row:
    """`called` are the packages that it is known by, and `more` how many others it has.

    `users` have it now, `models` were made in it.
    """

    environment: BuiltEnvironment
    called: Sequence[str]
    users: Sequence[Needer]
    models: Sequence[Needer]

    @property
    def short_key(self) -> str:
        return self.environment.key[:12]

    @property
    def name(self) -> str:
        """Empty where nobody knows what is in it that others have not."""
        return ", ".join(self.called)

    @property
    def is_alive(self) -> bool:
        """Whether something is about to become of it."""
        return bool(self.environment.asked) or self.environment.state == State.BUILDING

    @property
    def detail(self) -> str:
        """What is about to be done to it."""
        if self.environment.state == State.BUILDING:
            return ""
        words = {"rebuild": "will be built again", "delete": "will be deleted"}
        return words.get(self.environment.asked, "")

    @property
    def size(self) -> str:
        environment = self.environment
        is_told = environment.size_is_known and environment.state != State.GONE
        return size_in_words(environment.size_bytes) if is_told else ""


def rows_of(found: QuerySet[BuiltEnvironment]) -> list[Row]:
    """As many queries for one environment as for many."""
    shown: list[Any] = list(with_requirements(found))
    keys = [one.key for one in shown]
    asked = {one.key: names_in(one.requirements or ()) for one in shown}
    wanted = {name for names in asked.values() for name in names}
    versions = versions_in(keys, wanted.union(WELL_KNOWN))
    users, models = users_of(keys), models_in(shown)
    return [
        Row(
            one,
            _called(asked[one.key], versions[one.key]),
            list(map(needer_of, users[one.key])),
            list(map(needer_of, models[one.key])),
        )
        for one in shown
    ]


def with_requirements(found: QuerySet[BuiltEnvironment]) -> QuerySet[BuiltEnvironment]:
    """Each with `requirements`, what its newest job asked for; None where there is no job."""
    jobs = Job.objects.filter(environment_key=OuterRef("pk")).order_by("-created_at", "-id")
    return found.annotate(requirements=Subquery(jobs.values("requirements")[:1]))


def names_in(requirements: Iterable[str]) -> list[str]:
    """As a lock calls them; what is no requirement has no name."""
    names: list[str] = []
    for requirement in requirements:
        try:
            names.append(canonicalize_name(Requirement(requirement).name))
        except InvalidRequirement:
            continue
    return names


def needer_of(words: str) -> Needer:
    """Of what `environment_needs` calls one."""
    job = JOB.fullmatch(words)
    if job is not None:
        return Needer(f"job {words[4:12]}", job=uuid.UUID(job["id"]))
    model = MODEL.fullmatch(words)
    if model is not None:
        told = f"{model['name']} v{model['version']}"
        return Needer(told, model=model["name"], version=model["version"])
    return Needer(words)


def size_in_words(count: int) -> str:
    """In powers of ten, as the budget is set and the API tells them: `471 MB`, `1.02 GB`."""
    if count < GB:
        return f"{count / MB:.0f} MB"
    return f"{count / GB:.3g} GB" if count < 1000 * GB else f"{count / GB:.0f} GB"


def _called(asked: Sequence[str], versions: Mapping[str, str]) -> list[str]:
    names = [name for name in asked if name in versions]
    names = names or [name for name in WELL_KNOWN if name in versions]
    return [f"{name} {versions[name]}" for name in names[:NAMED]]
