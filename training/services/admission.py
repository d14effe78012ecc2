"""Pauses admission and drains an engine, and lets both take work again; the rows outlive restarts.

Paused: what is sent is accepted and waits; no job and no batch is started, on any engine. Drained:
one engine begins nothing that has an end, builds included, and what it has goes on to its end.
Models go on being served in both. Asked twice each is harmless: the first word stands.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from registry import audit, holds
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from registry.holds import ADMISSION, Admission
from registry.models import WHY_CHARACTERS, Hold
from training.models import Attempt, BuiltEnvironment, Resolution
from training.services.claim import LOCAL_ENGINE, RESOLVE_PATIENCE_SECONDS, one_at_a_time


@dataclass(frozen=True)
class Left:
    """What an engine still has to bring to its end, by what it is."""

    jobs: int
    builds: int


def pause(*, actor: str, why: str = "") -> Admission:
    """From here on no job and no batch is started; what was sent and is sent waits."""
    _hold(ADMISSION, act=Act.PAUSE, actor=actor, why=why)
    return holds.admission(LOCAL_ENGINE)


def resume(*, actor: str) -> Admission:
    """What waits is started, as far as there is room."""
    _let_go(ADMISSION, act=Act.RESUME, actor=actor)
    return holds.admission(LOCAL_ENGINE)


def drain(engine: str = LOCAL_ENGINE, *, actor: str, why: str = "") -> Admission:
    """From here on the engine begins nothing new; its waiting containers are given up."""
    _hold(holds.name_of(engine), act=Act.DRAIN, actor=actor, why=why)
    return holds.admission(engine)


def undrain(engine: str = LOCAL_ENGINE, *, actor: str) -> Admission:
    """The engine takes work again."""
    _let_go(holds.name_of(engine), act=Act.UNDRAIN, actor=actor)
    return holds.admission(engine)


def left_of(engine: str = LOCAL_ENGINE) -> Left:
    """Jobs that run or end, and builds that a worker is at."""
    asked = timezone.now() - timedelta(seconds=RESOLVE_PATIENCE_SECONDS)
    resolving = Resolution.objects.filter(status=Resolution.Status.RESOLVING, queued_at__gte=asked)
    building = BuiltEnvironment.objects.filter(state=BuiltEnvironment.State.BUILDING)
    return Left(
        jobs=Attempt.objects.filter(finished_at=None, engine=engine).count(),
        builds=building.count() + resolving.count(),
    )


def _hold(name: str, *, act: Act, actor: str, why: str) -> None:
    with transaction.atomic():
        # Who claims a job at this moment has claimed it before, or finds the hold.
        one_at_a_time()
        told = why.replace("\x00", "").strip()[:WHY_CHARACTERS]
        values = {"by": actor, "since": timezone.now(), "why": told}
        _, made = Hold.objects.get_or_create(name=name, defaults=values)
        if made:
            audit.record(act, Kind.PLATFORM, name, detail=told, actor=actor)
            SUPERVISOR_BELL.ring_on_commit()


def _let_go(name: str, *, act: Act, actor: str) -> None:
    with transaction.atomic():
        gone, _ = Hold.objects.filter(name=name).delete()
        if gone:
            audit.record(act, Kind.PLATFORM, name, actor=actor)
            SUPERVISOR_BELL.ring_on_commit()
