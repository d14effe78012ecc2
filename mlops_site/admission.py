"""Whether new work is begun, and what is left to end: for the API, the console and the shell."""

from dataclasses import dataclass

from inference.batch.states import Status as BatchStatus
from inference.models import BatchPrediction
from registry import holds
from registry.holds import Admission
from training.models import Job
from training.services.admission import left_of
from training.services.claim import LOCAL_ENGINE
from training.states import Status


@dataclass(frozen=True)
class Left:
    """What an engine has to bring to its end; an empty one is false."""

    jobs: int = 0
    batches: int = 0
    builds: int = 0

    def __bool__(self) -> bool:
        return self.jobs + self.batches + self.builds > 0

    @property
    def words(self) -> str:
        """`2 jobs, 1 batch prediction`; `nothing`."""
        counted = (
            _counted(self.jobs, "job"),
            _counted(self.batches, "batch prediction"),
            _counted(self.builds, "build"),
        )
        return ", ".join(words for words in counted if words) or "nothing"


@dataclass(frozen=True)
class NowHeld:
    """What somebody said about one engine, and how far that is."""

    admission: Admission
    left: Left
    waiting: int

    @property
    def is_drained(self) -> bool:
        return self.admission.draining is not None and not self.left


def held_now(engine: str = LOCAL_ENGINE) -> NowHeld:
    """Six queries."""
    left = left_of(engine)
    batches = BatchPrediction.objects.filter(status=BatchStatus.RUNNING, engine=engine)
    return NowHeld(
        admission=holds.admission(engine),
        left=Left(jobs=left.jobs, batches=batches.count(), builds=left.builds),
        waiting=Job.objects.filter(status=Status.QUEUED).count(),
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}" if count else ""
