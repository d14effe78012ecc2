"""What stands around the demo's jobs: environments, models and what serves them, the host."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings

from inference.models import AliasChange, BatchPrediction, ModelPolicy, ModelServer
from mlops_site.demo import serving
from mlops_site.demo.acts import acts_of
from mlops_site.demo.charts import write_charts
from mlops_site.demo.environments import environment_rows, key_of
from mlops_site.demo.projects import PROJECTS
from mlops_site.demo.versions import ModelStory, alias_changes
from registry.feature_store import services as features
from registry.feature_store.marks import is_configured
from registry.models import AuditEntry, Materialization
from sandbox.image.lock_file import pins_in
from training.models import (
    BuiltEnvironment,
    EnvironmentPackage,
    Gpu,
    WaitingContainer,
)
from training.services.environments import packages_of

# Of the example that `prepare_feature_store` makes.
VIEWS = ("customer_profile", "customer_activity")
PARTLY = "1 of 2 feature views could not be materialised."


def write_history(
    rng: random.Random, stories: Sequence[ModelStory], *, now: datetime, jobs: int
) -> None:
    """What nobody acts upon: environments, alias changes, ended batches."""
    known = set(BuiltEnvironment.objects.values_list("pk", flat=True))
    made = [row for row in environment_rows(rng, now=now, jobs=jobs) if row.pk not in known]
    for row in made:
        row.needed_by = _models_made_in(row.pk, stories)
    BuiltEnvironment.objects.bulk_create(made)
    EnvironmentPackage.objects.bulk_create(
        package for row in made for package in packages_of(row, pins_in(row.lock))
    )
    changes = alias_changes(rng, stories, now=now)
    AliasChange.objects.bulk_create(changes)
    AuditEntry.objects.bulk_create(acts_of(rng, changes, now=now))
    BatchPrediction.objects.bulk_create(serving.ended_batches(rng, stories, now=now))


def write_present(rng: random.Random, stories: Sequence[ModelStory], *, now: datetime) -> None:
    """What a supervisor would act upon, where there was one."""
    ModelServer.objects.bulk_create(serving.servers(rng, stories, now=now))
    ModelPolicy.objects.bulk_create(serving.policies(stories, now=now))
    BatchPrediction.objects.bulk_create(serving.open_batches(rng, stories, now=now))
    WaitingContainer.objects.bulk_create(_waiting_containers(rng, now=now))
    Gpu.objects.bulk_create(Gpu(engine="local", device=f"GPU-{number}") for number in range(2))
    if is_configured(settings.FEAST_REPO_DIR):
        features.ask_description()
        features.describe()
        Materialization.objects.bulk_create(_materializations(now=now))
    write_charts(rng, stories, now=now)


def _models_made_in(key: str, stories: Sequence[ModelStory]) -> list[str]:
    """As the platform's own look at them writes it down."""
    return [
        f"model {story.project.model} version {version}"
        for story in stories
        if key_of(story.project.requirements) == key
        for version in range(1, story.newest + 1)
    ]


def _materializations(*, now: datetime) -> list[Materialization]:
    """Each night one; the last but one came to nothing for one of the views."""
    return [
        _materialization(now - timedelta(hours=hours), wrong=wrong)
        for hours, wrong in ((53, ""), (29, "The offline store was locked."), (5, ""))
    ]


def _materialization(at: datetime, *, wrong: str) -> Materialization:
    until = at.isoformat()
    done = {"name": VIEWS[0], "until": until, "detail": "", "seconds": 1.4}
    other = {"name": VIEWS[1], "until": None if wrong else until, "detail": wrong, "seconds": 2.1}
    return Materialization(
        feature_views=list(VIEWS),
        state=Materialization.State.FAILED if wrong else Materialization.State.COMPLETED,
        outcome=[done, other],
        error=PARTLY if wrong else "",
        asked_by="nightly",
        attempts=1,
        asked_at=at,
        started_at=at + timedelta(seconds=1),
        seen_at=at + timedelta(seconds=4),
        ended_at=at + timedelta(seconds=5),
    )


def _waiting_containers(rng: random.Random, *, now: datetime) -> list[WaitingContainer]:
    return [
        WaitingContainer(
            engine="local",
            environment_key=key_of(project.requirements),
            shape=f"{rng.getrandbits(64):016x}",
            image="mlops-runner:demo",
            state=WaitingContainer.State.READY,
            container_id=f"{rng.getrandbits(256):064x}",
            cpu_seconds=round(rng.uniform(0.4, 2.4), 2),
            created_at=now - timedelta(minutes=rng.randrange(3, 200)),
        )
        for project in PROJECTS[:2]
    ]
