"""How the demo's jobs end, how often each way, and what the newest of them are doing now."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlops_site.demo.projects import PROJECTS, Project
from training.states import ENDINGS, Phase, Priority, Reason, Status

COMPLETED, CANCELLED, FAILED = 83, 4, 13
# Of a hundred failures; whatever is not named here is as rare as it should be.
OFTEN = {
    Reason.SCRIPT_ERROR: 38,
    Reason.MISSING_MODULE: 14,
    Reason.OUT_OF_MEMORY: 11,
    Reason.TIMEOUT: 9,
    Reason.NO_MODEL_LOGGED: 8,
    Reason.REQUIREMENTS_NOT_FOUND: 6,
    Reason.SYNTAX_ERROR: 4,
    Reason.REQUIREMENTS_CONFLICT: 4,
    Reason.DISK_FULL: 3,
    Reason.ENVIRONMENT_BUILD_FAILED: 2,
    Reason.WORKER_LOST: 1,
}
FAILURES = tuple(reason for reason in Reason if ENDINGS[reason].status == Status.FAILED)
# Each way to fail is there once, among the oldest: every so many jobs comes the next one.
EVERY = 7
# One in so many had to be tried again, for reasons of the platform, before it completed.
TRIED_AGAIN = 60
AGAIN = (Reason.WORKER_LOST, Reason.ENGINE_UNAVAILABLE, Reason.TRACKING_UNAVAILABLE)


@dataclass(frozen=True)
class Fate:
    """Where a job is, or how it ended; `earlier` are the reasons of attempts before the last.

    `age_seconds` and what follows are of those that wait or run.
    """

    status: Status
    reason: str = ""
    earlier: tuple[Reason, ...] = ()
    phase: Phase = Phase.ENDED
    age_seconds: float = 0
    project: Project | None = None
    priority: Priority = Priority.NORMAL
    gpus: int = 0
    retry_seconds: float = 0


def _runs(phase: Phase, age_seconds: float, project: int) -> Fate:
    return Fate(Status.RUNNING, phase=phase, age_seconds=age_seconds, project=PROJECTS[project])


def _waits(age_seconds: float, project: int) -> Fate:
    return Fate(
        Status.QUEUED, phase=Phase.WAITING, age_seconds=age_seconds, project=PROJECTS[project]
    )


# Oldest first.
ALIVE: tuple[Fate, ...] = (
    _runs(Phase.TRAINING, 512, 2),
    _runs(Phase.TRAINING, 141, 1),
    _runs(Phase.STOPPING, 118, 5),
    replace(_waits(104, 1), priority=Priority.LOW, gpus=1),
    _runs(Phase.TRAINING, 64, 3),
    _runs(Phase.REGISTERING, 52, 0),
    replace(_waits(47, 6), earlier=(Reason.WORKER_LOST,), retry_seconds=19),
    replace(_runs(Phase.TRAINING, 21, 0), priority=Priority.HIGH),
    _runs(Phase.BUILDING_ENVIRONMENT, 17, 5),
    _waits(12, 4),
    _waits(9, 2),
    _runs(Phase.STARTING, 2, 7),
    _waits(1, 7),
)


def fates(rng: random.Random, count: int) -> Iterator[Fate]:
    """Of so many jobs that have ended."""
    for number in range(count):
        due, place = divmod(number, EVERY)
        if place == EVERY // 2 and due < len(FAILURES) and count >= EVERY * len(FAILURES):
            yield _failed(FAILURES[due])
        else:
            yield _some(rng)


def _some(rng: random.Random) -> Fate:
    chosen = rng.random() * (COMPLETED + CANCELLED + FAILED)
    if chosen < COMPLETED:
        earlier = (rng.choice(AGAIN),) if rng.randrange(TRIED_AGAIN) == 0 else ()
        return Fate(Status.COMPLETED, Reason.SUCCEEDED, earlier)
    if chosen < COMPLETED + CANCELLED:
        return Fate(Status.CANCELLED, Reason.CANCELLED)
    return _failed(rng.choices([*OFTEN], weights=[*OFTEN.values()])[0])


def _failed(reason: Reason) -> Fate:
    """What the platform tries again by itself failed three times before it is given up."""
    earlier = (reason, reason) if ENDINGS[reason].retried_by_us else ()
    return Fate(Status.FAILED, reason, earlier)
