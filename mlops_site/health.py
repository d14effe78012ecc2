"""Which part of the platform works, since when it does not, and what that means, in words."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from mlops_site.models import BEAT_FRESH_SECONDS, QUEUE, SUPERVISOR, WORKER, Heartbeat
from registry import holds
from registry.holds import OPEN, Admission
from registry.mlflow_client import model_registry
from training.models import EngineCapacity, SandboxProof
from training.services import network
from training.services.claim import LOCAL_ENGINE, MEASUREMENT_FRESH_SECONDS, measured_now
from training.services.network import NETWORK

log = logging.getLogger(__name__)

PROBE_SECONDS = 1.0
MEANING = {
    WORKER: "no job is started or finished",
    SUPERVISOR: "no end of a job is noticed, and nothing new is started",
}
SHORT_OF = {
    "disk": "The disk is nearly full",
    "memory": "The memory is nearly used up",
    "mlflow": "MLflow does not answer the supervisor",
    NETWORK: "Nobody knows that the firewall holds what jobs may reach",
}


TOLD_BY_ROWS = (WORKER, SUPERVISOR, QUEUE, "engine", NETWORK)
DATABASE_AWAY = "{kind} does not answer: jobs are neither taken nor told of until it does."
UNKNOWN = "Unknown, since the database does not answer."


@dataclass(frozen=True)
class Part:
    """`age_seconds` is None for what is asked just now, and for what never showed that it works."""

    works: bool
    age_seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Rows:
    """What the processes last wrote about themselves, and what their engine last told."""

    beats: Mapping[str, Heartbeat]
    measured: EngineCapacity | None
    proof: SandboxProof | None
    admission: Admission = OPEN


def parts_of_platform() -> dict[str, Part]:
    """Each part by its name; the web process itself answers, so it is none."""
    try:
        told = {"database": Part(works=True), **_told_by_rows(rows_now())}
    except (DatabaseError, InterfaceError) as error:
        log.warning("health.database_away %s", error)
        connection.close()
        told = {"database": Part(works=False, detail=DATABASE_AWAY.format(kind=database_kind()))}
        told |= dict.fromkeys(TOLD_BY_ROWS, Part(works=False, detail=UNKNOWN))
    return {**told, "mlflow": _mlflow()}


def parts_by(rows: Rows) -> dict[str, Part]:
    """The same and the sandbox's self-test, of rows that were read already."""
    told = _told_by_rows(rows)
    return {
        "database": Part(works=True),
        **told,
        "sandbox": _sandbox(rows.proof),
        "mlflow": _mlflow(),
    }


def rows_now() -> Rows:
    """What the processes last wrote about themselves; three queries. Raises DatabaseError."""
    beats = Heartbeat.objects.filter(name__in=(WORKER, SUPERVISOR, QUEUE))
    measured = measured_now()
    return Rows(
        beats={beat.name: beat for beat in beats},
        measured=measured,
        proof=_proof(),
        admission=holds.admission_of(measured) if measured else holds.admission(LOCAL_ENGINE),
    )


def database_kind() -> str:
    """`SQLite` or `PostgreSQL`."""
    return connection.display_name


def database_works() -> bool:
    """Whether the database answers now."""
    try:
        Heartbeat.last(WORKER)
    except (DatabaseError, InterfaceError):
        connection.close()
        return False
    return True


def known(look: Callable[[], Part]) -> Part:
    """What `look` finds, or that nobody can know while the database does not answer."""
    try:
        return look()
    except (DatabaseError, InterfaceError):
        connection.close()
        return Part(works=False, detail=UNKNOWN)


def admission_now() -> Admission | None:
    """What somebody said of new work; None while the database does not answer."""
    try:
        return holds.admission(LOCAL_ENGINE)
    except (DatabaseError, InterfaceError):
        connection.close()
        return None


def _told_by_rows(rows: Rows) -> dict[str, Part]:
    return {
        WORKER: _process(WORKER, rows.beats.get(WORKER)),
        SUPERVISOR: _process(SUPERVISOR, rows.beats.get(SUPERVISOR)),
        QUEUE: _queue(rows.beats.get(QUEUE)),
        "engine": _engine(rows.measured),
        NETWORK: _network(rows.proof),
    }


def _process(name: str, beat: Heartbeat | None) -> Part:
    if beat is None:
        return Part(works=False, detail=f"The {name} has not started yet: {MEANING[name]}.")
    age = round(beat.age_seconds, 1)
    if age <= BEAT_FRESH_SECONDS:
        return Part(works=True, age_seconds=age)
    detail = f"The {name} was last heard of {age:.0f} s ago: {MEANING[name]}."
    return Part(works=False, age_seconds=age, detail=detail)


def _queue(beat: Heartbeat | None) -> Part:
    """As the supervisor reached it: the web process has no address of a Redis."""
    if beat is None:
        return Part(works=False, detail="The queue was not reached yet: no worker is woken.")
    age = round(beat.age_seconds, 1)
    if age <= BEAT_FRESH_SECONDS:
        return Part(works=True, age_seconds=age)
    detail = f"The queue was last reached {age:.0f} s ago: no worker is woken."
    return Part(works=False, age_seconds=age, detail=detail)


def _engine(measured: EngineCapacity | None) -> Part:
    """As its supervisor measured it: the web process cannot ask Docker itself."""
    if measured is None:
        return Part(works=False, detail="Docker was not measured yet: no job is started.")
    age = round(max(0.0, (timezone.now() - measured.measured_at).total_seconds()), 1)
    if age > MEASUREMENT_FRESH_SECONDS:
        detail = f"Docker was last measured {age:.0f} s ago: it does not answer."
        return Part(works=False, age_seconds=age, detail=detail)
    if not measured.short_of:
        return Part(works=True, age_seconds=age)
    why = SHORT_OF.get(measured.short_of, f"The host is short of {measured.short_of}")
    # Running jobs go on and predictions are answered: the engine works.
    return Part(works=True, age_seconds=age, detail=f"{why}: no new job is started.")


def network_part() -> Part:
    """Whether what jobs may reach was proved to be held; a worker tried it from inside."""
    return _network(_proof())


def sandbox_part() -> Part:
    """What an operator's `manage.py sandbox check` found last; it stops nothing by itself."""
    return _sandbox(_proof())


def _proof() -> SandboxProof | None:
    return SandboxProof.objects.filter(engine=LOCAL_ENGINE).first()


def _network(proof: SandboxProof | None) -> Part:
    tried = proof is not None and proof.checked_at is not None
    age = round(proof.age_seconds, 1) if proof is not None and tried else None
    found = network.problem_in(proof)
    if not found:
        return Part(works=True, age_seconds=age)
    if settings.DEBUG:
        detail = f"{found}: jobs run all the same, since MLOPS_DEBUG=1."
        return Part(works=True, age_seconds=age, detail=detail)
    return Part(works=False, age_seconds=age, detail=f"{found}: no new job is started.")


def _sandbox(proof: SandboxProof | None) -> Part:
    age = proof.sandbox_age_seconds if proof is not None else None
    if proof is None or age is None:
        detail = "Not checked on this machine yet: manage.py sandbox check."
        return Part(works=False, detail=detail)
    found = proof.sandbox_problem
    return Part(works=not found, age_seconds=round(age, 1), detail=found)


def _mlflow() -> Part:
    if model_registry().available(timeout_seconds=PROBE_SECONDS):
        return Part(works=True)
    return Part(works=False, detail="MLflow does not answer: no job is started or finished.")
