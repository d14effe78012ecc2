"""Who needs an environment: jobs that run in it, models that were made in it, and other rooms' own.

Whoever asks is told what holds now. Which models are registered only MLflow knows, who is asked
every few minutes; the rows remember that, and what was registered since is in the jobs' rows.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from django.utils import timezone

from registry.mlflow_client import ModelRegistry
from training.models import Attempt, BuiltEnvironment, Job

# A look at what models need comes every ten minutes, and may be late.
LOOK_EVERY = timedelta(minutes=20)
BATCH = 500
Needers = Callable[[], Mapping[str, Sequence[str]]]
# By the key of an environment, name and version of each model.
Served = Callable[[], Mapping[str, Sequence[tuple[str, str]]]]
ByKey = Mapping[str, Sequence[str]]
_others: list[Needers] = []
_served: list[Served] = []


def also_needed_by(needers: Needers) -> None:
    """Another room says who uses which environment now, by its key."""
    _others.append(needers)


def also_kept_for(served: Served) -> None:
    """Another room says which models had which environment, whoever registered them."""
    _served.append(served)


def users_of(keys: Iterable[str]) -> ByKey:
    """Who has each of these now: jobs that run, and what other rooms say."""
    found: dict[str, list[str]] = {key: [] for key in keys}
    # Not by key: most jobs there were may have had one of these.
    running = Attempt.objects.filter(finished_at=None).order_by("pk")
    for key, job_id in running.values_list("job__environment_key", "job_id"):
        if key in found:
            found[key].append(f"job {job_id}")
    for needers in _others:
        for key, users in needers().items():
            if key in found:
                found[key] += users
    return found


def in_use(key: str) -> Sequence[str]:
    """Who has this one now."""
    return users_of([key])[key]


def models_in(environments: Iterable[BuiltEnvironment]) -> ByKey:
    """The registered models that were made in each of these, by its key; also of a moment ago."""
    found = {one.key: set(one.needed_by) for one in environments}
    for key, model in _registered_lately(found):
        found[key].add(model)
    return {key: sorted(models) for key, models in found.items()}


def _registered_lately(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Models that are newer than the last look at them."""
    since = timezone.now() - LOOK_EVERY
    wanted = set(keys)
    # Not by key: most jobs there are may have one of these.
    jobs = Job.objects.filter(completed_at__gte=since).exclude(model_version="")
    columns = ("environment_key", "model_name", "model_version")
    for key, name, version in jobs.order_by().values_list(*columns):
        if key in wanted:
            yield key, _words_for(name, version)


def note_models(registry: ModelRegistry) -> None:
    """Which environment the registered models were made in, by the jobs that made them; of those
    that no job made, the one that served them. Raises RegistryUnavailable.
    """
    needed: dict[str, set[str]] = defaultdict(set)
    registered = registry.registered_versions()
    for served in _served:
        for key, versions in served().items():
            there = registered.intersection(versions)
            needed[key] |= {_words_for(name, version) for name, version in there}
    for some in _batches(sorted(filter(_is_uuid, registry.jobs_with_models()))):
        jobs = Job.objects.filter(pk__in=some).exclude(environment_key="").order_by()
        columns = ("environment_key", "model_name", "model_version")
        for key, name, version in jobs.values_list(*columns):
            needed[key].add(_words_for(name, version))
    for row in BuiltEnvironment.objects.only("key", "needed_by"):
        models = sorted(needed.get(row.key, ()))
        if row.needed_by != models:
            BuiltEnvironment.objects.filter(pk=row.pk).update(needed_by=models)


def _words_for(name: str, version: str) -> str:
    return f"model {name} version {version}" if version else f"model {name}"


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + BATCH] for start in range(0, len(names), BATCH))


def _is_uuid(text: str) -> bool:
    """A run's tag is what somebody wrote there."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def needed_keys() -> set[str]:
    """Those that a registered model needs, as the last look found them."""
    rows = BuiltEnvironment.objects.only("key", "needed_by")
    return {row.key for row in rows if row.needed_by}
