"""What the demo's charts over time show: jobs as the supervisor counts them, and predictions."""

import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from inference.metrics import SECONDS
from inference.models import PredictionTally, VersionTally
from inference.prediction_tallies import KEPT, begin_of
from mlops_site.demo.jobs import RHYTHM
from mlops_site.demo.versions import ModelStory
from registry.steps import counted
from training.models import JobTallied
from training.tallies import count_up_to

# Answers a second at the busiest hour of a day, and how long one takes in the middle.
BUSIEST, MIDDLE_SECONDS = 42.0, 0.0041
SAMPLES = 40
FAILED_SHARE = 0.002


def write_charts(rng: random.Random, stories: Sequence[ModelStory], *, now: datetime) -> None:
    """Of the time that charts show, which is a week; each champion has its share of the whole."""
    count_jobs(now=now)
    whole = list(_predictions(rng, now=now))
    PredictionTally.objects.bulk_create(whole, ignore_conflicts=True)
    for place, story in enumerate(stories, start=1):
        shares = [_share(told, story, 1 / 2**place) for told in whole]
        VersionTally.objects.bulk_create(shares, ignore_conflicts=True)


def count_jobs(*, now: datetime) -> None:
    """All that are due: one look of the supervisor counts some of them."""
    while True:
        count_up_to(now)
        if JobTallied.objects.filter(through__gte=now).exists():
            return


def _predictions(rng: random.Random, *, now: datetime) -> Iterator[PredictionTally]:
    process = uuid.UUID(int=rng.getrandbits(128), version=4)
    for size, kept in KEPT.items():
        begin = begin_of(now - kept, size)
        while begin <= now:
            yield _tally(rng, begin, size, process)
            begin += timedelta(seconds=size)


def _share(whole: PredictionTally, story: ModelStory, share: float) -> VersionTally:
    return VersionTally(
        model_name=story.project.model,
        version=str(story.champion),
        begins_at=whole.begins_at,
        seconds=whole.seconds,
        process=whole.process,
        answered=int(whole.answered * share),
        failed=int(whole.failed * share),
        latencies=[int(count * share) for count in whole.latencies],
    )


def _tally(rng: random.Random, begin: datetime, size: int, process: uuid.UUID) -> PredictionTally:
    busy = RHYTHM[begin.hour] / max(RHYTHM)
    answered = int(BUSIEST * busy * size * rng.uniform(0.85, 1.15))
    slower = MIDDLE_SECONDS * (1 + 0.6 * busy)
    took = [slower * rng.lognormvariate(0, 0.5) for _ in range(SAMPLES)]
    return PredictionTally(
        begins_at=begin,
        seconds=size,
        process=process,
        answered=answered,
        failed=int(answered * FAILED_SHARE * rng.random()),
        latencies=[count * answered // SAMPLES for count in counted(took, SECONDS)],
    )
