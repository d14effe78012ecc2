"""The versions of the demo's models: which jobs made them, what their aliases named, and why."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from inference.models import AliasChange
from mlops_site.demo.projects import PROJECTS, Project
from training.models import Job
from training.states import Status

# Of each model; older ones were deleted.
VERSIONS_MOST, APART = 8, 8
CHAMPION, CHALLENGER = "champion", "challenger"
NOTES = (
    "Better on last month's holdout.",
    "Same score, half the memory.",
    "Trained without the test accounts.",
    "Calibrated; the threshold stays 0.5.",
    "",
)
WHY_BACK = "Too many false alarms since noon."


@dataclass(frozen=True)
class ModelStory:
    """`jobs` made its versions, the first one version 1; `champion` is a version."""

    project: Project
    jobs: Sequence[Job]
    champion: int

    @property
    def newest(self) -> int:
        return len(self.jobs)

    @property
    def source(self) -> str:
        """Where the champion's files would lie."""
        return source_of(self.jobs[self.champion - 1])

    @property
    def aliases(self) -> dict[str, int]:
        if self.champion == self.newest:
            return {CHAMPION: self.champion}
        return {CHAMPION: self.champion, CHALLENGER: self.newest}


def source_of(job: Job) -> str:
    """Where the files of the version that it made would lie."""
    return f"runs:/{job.run_id}/model"


def number_versions() -> list[ModelStory]:
    """Gives the newest completed jobs of each model their versions; without any it has no story."""
    found = []
    for project in PROJECTS:
        completed = Job.objects.filter(model_name=project.model, status=Status.COMPLETED)
        newest = list(completed.order_by("-created_at", "-id")[: VERSIONS_MOST * APART])
        # Those between were deleted: so many versions are the work of days.
        apart = max(1, len(newest) // VERSIONS_MOST)
        jobs = newest[::apart][:VERSIONS_MOST][::-1]
        for number, job in enumerate(jobs, start=1):
            job.model_version = str(number)
        Job.objects.bulk_update(jobs, ["model_version"])
        if jobs:
            # The newest is looked at before it is given to everybody; a forecast need not be.
            champion = len(jobs) if not project.is_classifier else max(1, len(jobs) - 1)
            found.append(ModelStory(project, jobs, champion))
    return found


def alias_changes(
    rng: random.Random, stories: Sequence[ModelStory], *, now: datetime
) -> list[AliasChange]:
    """Each model went up version by version; the first one went too far once, and back."""
    changes = []
    for story in stories:
        changes += [
            _change(rng, story, version, now=now) for version in range(1, story.champion + 1)
        ]
        if story.champion < story.newest:
            changes.append(_change(rng, story, story.newest, now=now, alias=CHALLENGER))
    first = next((story for story in stories if story.champion > 1), None)
    if first is not None:
        changes += _there_and_back(first, now=now)
    return sorted(changes, key=lambda change: change.at)


def _change(
    rng: random.Random,
    story: ModelStory,
    version: int,
    *,
    now: datetime,
    alias: str = CHAMPION,
) -> AliasChange:
    made = story.jobs[version - 1].completed_at or now
    is_first = version == 1 or alias == CHALLENGER
    return AliasChange(
        model_name=story.project.model,
        alias=alias,
        version=str(version),
        previous="" if is_first else str(version - 1),
        actor=story.project.owners[0],
        how="set",
        note=rng.choice(NOTES),
        at=min(now - timedelta(hours=6), made + timedelta(minutes=rng.randrange(4, 50))),
    )


def _there_and_back(story: ModelStory, *, now: datetime) -> list[AliasChange]:
    def change(version: int, previous: int, *, hours: float, how: str, note: str) -> AliasChange:
        return AliasChange(
            model_name=story.project.model,
            alias=CHAMPION,
            version=str(version),
            previous=str(previous),
            actor="otto" if how == "rolled_back" else story.project.owners[0],
            how=how,
            note=note,
            at=now - timedelta(hours=hours),
        )

    after = story.newest
    return [
        change(after, story.champion, hours=5, how="set", note=NOTES[0]),
        change(story.champion, after, hours=3.2, how="rolled_back", note=WHY_BACK),
    ]
