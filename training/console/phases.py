"""How a job went through its phases: what each took, and the same as one bar to scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise

from registry.console import span
from training.facts import Moment
from training.models import Job
from training.states import TERMINAL, Phase, Status

WORDS = {
    Phase.WAITING: "Waited",
    Phase.BUILDING_ENVIRONMENT: "Environment",
    Phase.STARTING: "Start",
    Phase.TRAINING: "Training",
    Phase.REGISTERING: "Register",
    Phase.STOPPING: "Stop",
}
# Not a phase that every job has.
SELDOM = frozenset({Phase.STOPPING})
DONE, NOW, TODO, SKIPPED = "completed", "running", "todo", "skip"
LEAST_WIDTH = 0.6


@dataclass(frozen=True)
class Stage:
    """One phase over all attempts: `state` is a shape, `seconds` None where it was never come to.

    `lasts_since` is when it would have begun, had it not been interrupted; None when it is over.
    """

    words: str
    state: str
    seconds: float | None = None
    lasts_since: datetime | None = None


@dataclass(frozen=True)
class Piece:
    """One rectangle of the bar, in percent of its width."""

    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class Timeline:
    """`usual_seconds` is how long such a job takes from its start, None when nobody knows."""

    stages: Sequence[Stage]
    pieces: Sequence[Piece]
    told: str


@dataclass(frozen=True)
class _Stretch:
    phase: str
    began: datetime
    seconds: float


def timeline_of(
    job: Job, moments: Sequence[Moment], *, usual_seconds: float | None, now: datetime
) -> Timeline:
    """While the job runs, the bar is to the scale of the usual time, if there is one."""
    stretches = list(_stretches(job, moments, now=now))
    passed = sum(stretch.seconds for stretch in stretches)
    waited = sum(stretch.seconds for stretch in stretches if stretch.phase == Phase.WAITING)
    whole = passed
    if job.status not in TERMINAL and usual_seconds is not None:
        whole = max(passed, waited + usual_seconds)
    stages = _stages(job, stretches, now=now)
    told = ", ".join(
        f"{stage.words.lower()} {span(stage.seconds)}"
        for stage in stages
        if stage.seconds is not None
    )
    return Timeline(stages, _pieces(job, stretches, whole=whole), told)


def _stretches(job: Job, moments: Sequence[Moment], *, now: datetime) -> Iterator[_Stretch]:
    """Each phase in the order of time, the one that lasts included."""
    entered = [next(same) for _, same in groupby(moments, key=lambda moment: moment[1])]
    # The clock of whoever wrote the last line may be ahead of ours.
    last = max([now, *(at for at, _ in entered)])
    for (began, phase), (end, _) in pairwise([*entered, (job.completed_at or last, "")]):
        if phase != Phase.ENDED:
            yield _Stretch(phase, began, max(0.0, (end - began).total_seconds()))


def _stages(job: Job, stretches: Sequence[_Stretch], *, now: datetime) -> list[Stage]:
    seconds: dict[str, float] = {}
    for stretch in stretches:
        seconds[stretch.phase] = seconds.get(stretch.phase, 0.0) + stretch.seconds
    last = stretches[-1].phase if stretches else Phase.WAITING
    return [
        _stage(job, phase, seconds, last=last, now=now)
        for phase in WORDS
        if phase in seconds or phase not in SELDOM
    ]


def _stage(
    job: Job, phase: Phase, seconds: Mapping[str, float], *, last: str, now: datetime
) -> Stage:
    taken = seconds.get(phase)
    if taken is None:
        return Stage(WORDS[phase], SKIPPED if job.status in TERMINAL else TODO)
    if phase != last:
        return Stage(WORDS[phase], DONE, taken)
    if job.status in TERMINAL:
        return Stage(WORDS[phase], job.status, taken)
    state = Status.QUEUED if phase == Phase.WAITING else NOW
    since = datetime.fromtimestamp(now.timestamp() - taken, tz=now.tzinfo)
    return Stage(WORDS[phase], state, taken, since)


def _pieces(job: Job, stretches: Sequence[_Stretch], *, whole: float) -> list[Piece]:
    """Short ones are as wide as can be seen, so that the others give way a little."""
    if not stretches or whole <= 0:
        return []
    parts = [max(100 * stretch.seconds / whole, LEAST_WIDTH) for stretch in stretches]
    shrink = min(1.0, 100 / sum(parts))
    pieces, x = [], 0.0
    for number, (stretch, part) in enumerate(zip(stretches, parts, strict=True)):
        width = part * shrink
        kind = _kind(job, stretch, is_last=number == len(stretches) - 1)
        pieces.append(Piece(kind, round(x, 2), round(width, 2)))
        x += width
    return pieces


def _kind(job: Job, stretch: _Stretch, *, is_last: bool) -> str:
    if stretch.phase == Phase.WAITING:
        return "wait"
    if not is_last or job.status == Status.COMPLETED:
        return "done"
    return job.status if job.status in TERMINAL else "now"
