"""Which part of the platform works, since when it does not, and what that means, in words."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from mlops_site.models import BEAT_FRESH_SECONDS, QUEUE, SUPERVISOR, WORKER, Heartbeat
from registry.mlflow_client import model_registry
from training.models import EngineCapacity, SandboxProof
from training.services import network
from training.services.claim import LOCAL_ENGINE, MEASUREMENT_FRESH_SECONDS
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


def parts_of_platform() -> dict[str, Part]:
    """Each part by its name; the web process itself answers, so it is none."""
    try:
        told = {"database": Part(works=True), **_told_by_rows()}
    except (DatabaseError, InterfaceError) as error:
        log.warning("health.database_away %s", error)
        connection.close()
        told = {"database": Part(works=False, detail=DATABASE_AWAY.format(kind=database_kind()))}
        told |= dict.fromkeys(TOLD_BY_ROWS, Part(works=False, detail=UNKNOWN))
    return {**told, "mlflow": _mlflow()}


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


def _told_by_rows() -> dict[str, Part]:
    return {
        WORKER: _process(WORKER),
        SUPERVISOR: _process(SUPERVISOR),
        QUEUE: _queue(),
        "engine": _engine(),
        NETWORK: network_part(),
    }


def _process(name: str) -> Part:
    beat = Heartbeat.objects.filter(name=name).first()
    if beat is None:
        return Part(works=False, detail=f"The {name} has not started yet: {MEANING[name]}.")
    age = round(beat.age_seconds, 1)
    if age <= BEAT_FRESH_SECONDS:
        return Part(works=True, age_seconds=age)
    detail = f"The {name} was last heard of {age:.0f} s ago: {MEANING[name]}."
    return Part(works=False, age_seconds=age, detail=detail)


def _queue() -> Part:
    """As the supervisor reached it: the web process has no address of a Redis."""
    beat = Heartbeat.objects.filter(name=QUEUE).first()
    if beat is None:
        return Part(works=False, detail="The queue was not reached yet: no worker is woken.")
    age = round(beat.age_seconds, 1)
    if age <= BEAT_FRESH_SECONDS:
        return Part(works=True, age_seconds=age)
    detail = f"The queue was last reached {age:.0f} s ago: no worker is woken."
    return Part(works=False, age_seconds=age, detail=detail)


def _engine() -> Part:
    """As its supervisor measured it: the web process cannot ask Docker itself."""
    measured = EngineCapacity.objects.filter(engine=LOCAL_ENGINE).first()
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
    proof = SandboxProof.objects.filter(engine=LOCAL_ENGINE).first()
    tried = proof is not None and proof.checked_at is not None
    age = round(proof.age_seconds, 1) if proof is not None and tried else None
    found = network.problem()
    if not found:
        return Part(works=True, age_seconds=age)
    if settings.DEBUG:
        detail = f"{found}: jobs run all the same, since MLOPS_DEBUG=1."
        return Part(works=True, age_seconds=age, detail=detail)
    return Part(works=False, age_seconds=age, detail=f"{found}: no new job is started.")


def sandbox_part() -> Part:
    """What an operator's `manage.py sandbox check` found last; it stops nothing by itself."""
    proof = SandboxProof.objects.filter(engine=LOCAL_ENGINE).first()
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
