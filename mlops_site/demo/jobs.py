"""The demo's jobs: when they came, how they went, and how they ended, from a seed and a moment."""

import random
import uuid
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

from mlops_site.demo.fates import ALIVE, Fate, fates
from mlops_site.demo.projects import PROJECTS, Project
from mlops_site.demo.telling import Course, Story, told
from training.models import Job
from training.states import Status

# So many of the newest have all that a page shows: script, lock, output, read-back.
DETAILED = 300
# How often somebody sends again what failed.
RERUN = 0.5
# The newest that has ended was sent so long ago.
LAST_ENDED_MINUTES = 14
# How busy each hour of a day is, UTC.
RHYTHM = (4, 3, 6, 3, 2, 2, 4, 9, 16, 22, 25, 24, 18, 20, 24, 26, 23, 18, 12, 9, 8, 7, 6, 5)


@dataclass
class _Counted:
    """What is known of an experiment so far: its last job, if it failed."""

    failed: Job | None = None


def stories(
    *, seed: int, count: int, days: float, now: datetime, with_alive: bool
) -> Iterator[Story]:
    """So many jobs over so many days, oldest first.

    `with_alive`: the newest of them wait or run.
    """
    rng = random.Random(seed)  # noqa: S311 - a demo's chance must be repeatable
    alive = ALIVE if with_alive and count > 3 * len(ALIVE) else ()
    ended = count - len(alive)
    moments = [*_moments(rng, ended, days=days, now=now), *_alive_moments(alive, now=now)]
    known: dict[str, _Counted] = {project.experiment: _Counted() for project in PROJECTS}
    for number, (moment, fate) in enumerate(
        zip(moments, [*fates(rng, ended), *alive], strict=True)
    ):
        project = fate.project or _project(rng)
        before = known[project.experiment]
        is_detailed = count - number <= DETAILED
        course = Course(
            project=project,
            fate=fate,
            created_at=moment,
            now=now,
            is_detailed=is_detailed,
            again=before.failed if rng.random() < RERUN else None,
        )
        story = told(rng, course, job_id=_id(rng))
        before.failed = story.job if fate.status == Status.FAILED else None
        yield story


def _id(rng: random.Random) -> uuid.UUID:
    """In the upper half of all: the lower one is for copies, which begin with their number."""
    return uuid.UUID(int=rng.getrandbits(127) | 1 << 127, version=4)


def _project(rng: random.Random) -> Project:
    return rng.choices(PROJECTS, weights=[project.often for project in PROJECTS])[0]


def _moments(rng: random.Random, count: int, *, days: float, now: datetime) -> list[datetime]:
    """In the rhythm of a working day, the last one a quarter of an hour ago."""
    last = now - timedelta(minutes=LAST_ENDED_MINUTES)
    hours = max(1, round(days * 24))
    first = last - timedelta(hours=hours)
    busy = list(accumulate(RHYTHM[(first.hour + hour) % 24] for hour in range(hours)))
    places = sorted(rng.random() * busy[-1] for _ in range(count))
    return [first + timedelta(hours=_hour(place, busy)) for place in places]


def _hour(place: float, busy: Sequence[int]) -> float:
    """Where in time so much of the work has come."""
    hour = bisect(busy, place)
    before = busy[hour - 1] if hour else 0
    return hour + (place - before) / (busy[hour] - before)


def _alive_moments(alive: Sequence[Fate], *, now: datetime) -> list[datetime]:
    return [now - timedelta(seconds=fate.age_seconds) for fate in alive]
