"""Servers as the web process asks for them: rows only. It calls neither Docker nor MLflow.

A row that is to start or stop is all that is written here; the supervisor, whom a bell wakes,
queues the work.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Sum
from django.utils import timezone

from inference.models import ModelServer
from inference.services.policy import policy_of
from inference.services.rows import LIVE, NOWHERE, ServerView, Status, now, view
from inference.states import Reason, meaning
from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL

log = logging.getLogger(__name__)

# A server that was asked for less than this ago is still wanted.
WANTED_SECONDS = 60
FIRST = 1
MB = 1024 * 1024


@dataclass(frozen=True)
class Figures:
    """The servers of a version that are in one status."""

    model_name: str
    version: str
    status: str
    count: int
    memory_bytes: int
    memory_limit_bytes: int


@dataclass(frozen=True)
class Shown:
    """A server for its users: what it does, or why it does not."""

    model_name: str
    version: str
    replica: int
    status: str
    phase: str
    reason: str
    error: str
    hint: str
    log_tail: str
    memory_mb: int
    cpus: float
    memory_bytes: int | None
    crashes: int
    not_before: datetime | None
    ready_at: datetime | None
    last_used_at: datetime | None


def warm(model_name: str, version: str) -> None:
    """Makes the version ready to answer, so that the first request finds it warm."""
    ensure_server(model_name, version)


def ensure_server(model_name: str, version: str, *, source: str = "") -> ServerView:
    """A server of a version; one that is not there, stopped, or failed long enough ago starts.

    With `source`, one that serves other files than these starts anew: the version's number was
    given again after its model was deleted.
    """
    moment = timezone.now()
    with transaction.atomic():
        server, created = ModelServer.objects.get_or_create(
            model_name=model_name,
            version=version,
            replica=_best_replica(model_name, version),
            defaults={"created_at": moment, "changed_at": moment, "last_used_at": moment},
        )
        if created or _restart(server, source):
            SUPERVISOR_BELL.ring_on_commit()
            server.refresh_from_db()
    return view(server)


def start(model_name: str, version: str, *, source: str = "") -> ServerView:
    """By hand: as `ensure_server`, and it does not wait until the pause after an end is over."""
    found = ensure_server(model_name, version, source=source)
    audit.record(Act.SERVER_START, Kind.SERVER, found.id, name=f"{model_name} version {version}")
    if found.status in (Status.STOPPED, Status.FAILED):
        server = ModelServer.objects.get(pk=found.id)
        _put_to_start(server)
        server.refresh_from_db()
        return view(server)
    return found


def stop_version(model_name: str, version: str) -> int:
    """Asks every server of a version to stop; how many there were to stop."""
    held = ModelServer.objects.filter(model_name=model_name, version=version)
    return sum(stop(server) for server in held.values_list("pk", flat=True))


def ready_servers(model_name: str, version: str) -> list[ServerView]:
    rows = ModelServer.objects.filter(
        model_name=model_name, version=version, status=Status.READY
    ).order_by("replica")
    return [view(server) for server in rows]


def starting_server(model_name: str, version: str) -> ServerView | None:
    """One that is on its way to be ready."""
    rows = ModelServer.objects.filter(
        model_name=model_name, version=version, status=Status.STARTING
    )
    server = rows.order_by("replica").first()
    return view(server) if server else None


def ask_for_more(model_name: str, version: str) -> bool:
    """One more server of a version whose servers are all busy, if its policy has room for it."""
    held = ModelServer.objects.filter(model_name=model_name, version=version)
    live = held.filter(status__in=LIVE)
    if live.count() >= policy_of(model_name).max_servers:
        return False
    if live.filter(status=Status.STARTING).exists():
        return False
    return add_server(model_name, version)


def add_server(model_name: str, version: str) -> bool:
    """One more, whatever the policy says. False when another process was first."""
    moment = timezone.now()
    held = ModelServer.objects.filter(model_name=model_name, version=version)
    idle = held.exclude(status__in=LIVE).order_by("replica").first()
    if idle is not None:
        return _put_to_start(idle)
    top = held.aggregate(top=Max("replica"))["top"] or 0
    try:
        with transaction.atomic():
            ModelServer.objects.create(
                model_name=model_name,
                version=version,
                replica=top + 1,
                created_at=moment,
                changed_at=moment,
                last_used_at=moment,
            )
            SUPERVISOR_BELL.ring_on_commit()
    except IntegrityError:
        return False
    return True


def look(server_id: int) -> ServerView | None:
    """The server as it is now; None when its row is gone."""
    server = ModelServer.objects.filter(pk=server_id).first()
    return view(server) if server else None


def report_gone(server_id: int, token: str) -> None:
    """A caller could not reach a ready server: a worker looks, and starts it again if need be."""
    with transaction.atomic():
        changed = ModelServer.objects.filter(pk=server_id, status=Status.READY, token=token).update(
            status=Status.STARTING, claim_expires_at=None, queued_at=None, **now()
        )
        if changed:
            SUPERVISOR_BELL.ring_on_commit()
            log.warning("server.reported_gone", extra={"server": server_id})


def touch(server_id: int) -> None:
    """Remembers that the server is used; the least recently used one is stopped first."""
    ModelServer.objects.filter(pk=server_id).update(last_used_at=timezone.now())


def description_of(model_name: str, version: str, *, source: str = "") -> dict[str, object] | None:
    """What a server of these very files said of its model when it was last ready."""
    rows = ModelServer.objects.filter(model_name=model_name, version=version)
    if source:
        rows = rows.filter(source=source)
    row = rows.exclude(description=None).order_by("-ready_at").first()
    return dict(row.description) if row and row.description else None


def shown(model_name: str = "", version: str = "") -> list[Shown]:
    """Every server, or those of a model, or of a version."""
    rows = ModelServer.objects.all()
    if model_name:
        rows = rows.filter(model_name=model_name)
    if version:
        rows = rows.filter(version=version)
    return [_shown(row) for row in rows]


def server_figures() -> list[Figures]:
    rows = ModelServer.objects.values("model_name", "version", "status").annotate(
        count=Count("pk"), used=Sum("memory_bytes"), may=Sum("memory_mb")
    )
    live = {str(status) for status in LIVE}
    return [
        Figures(
            model_name=row["model_name"],
            version=row["version"],
            status=row["status"],
            count=row["count"],
            memory_bytes=row["used"] or 0,
            memory_limit_bytes=(row["may"] or 0) * MB if row["status"] in live else 0,
        )
        for row in rows.order_by("model_name", "version", "status")
    ]


def environments_in_use() -> dict[str, list[str]]:
    """Which environments a server has now, or will have in a moment, and which servers they are."""
    found: dict[str, list[str]] = {}
    for server in ModelServer.objects.filter(status__in=LIVE).exclude(environment_key=""):
        name = f"the server of {server.model_name} version {server.version}"
        found.setdefault(server.environment_key, []).append(name)
    return found


def environments_served() -> dict[str, list[tuple[str, str]]]:
    """In which environment each version was served last, as name and version."""
    found: dict[str, list[tuple[str, str]]] = {}
    rows = ModelServer.objects.exclude(environment_key="").order_by()
    for key, name, version in rows.values_list("environment_key", "model_name", "version"):
        found.setdefault(key, []).append((name, version))
    return found


def stop(server_id: int, *, reason: Reason = Reason.STOPPED_BY_HAND) -> bool:
    """Asks for a stop; whether there was anything to stop. The next request starts it again."""
    with transaction.atomic():
        changed = ModelServer.objects.filter(
            pk=server_id, status__in=[Status.STARTING, Status.READY]
        ).update(
            status=Status.STOPPING,
            reason=reason,
            claim=uuid.uuid4(),
            claim_expires_at=None,
            queued_at=None,
            **now(),
        )
        if changed:
            if reason == Reason.STOPPED_BY_HAND:
                server = ModelServer.objects.get(pk=server_id)
                name = f"{server.model_name} version {server.version}"
                audit.record(Act.SERVER_STOP, Kind.SERVER, server_id, name=name)
            SUPERVISOR_BELL.ring_on_commit()
    return bool(changed)


def end_all() -> int:
    """The platform stops, and nobody works on servers any more: every row ends as stopped.

    Returns how many. Their containers are removed by whoever stops the platform. Those that were
    live are started again with the platform.
    """
    over: dict[str, Any] = {
        "status": Status.STOPPED,
        "phase": "",
        "claim": uuid.uuid4(),
        "claim_expires_at": None,
        "queued_at": None,
        **NOWHERE,
        **now(),
    }
    stopping = ModelServer.objects.filter(status=Status.STOPPING).update(**over)
    live = ModelServer.objects.filter(status__in=[Status.STARTING, Status.READY])
    return stopping + live.update(**over, reason=Reason.PLATFORM_STOPPED)


# -- helpers ------------------------------------------------------------------------------------
def _best_replica(model_name: str, version: str) -> int:
    """The number of the server that answers soonest: a ready one, else one that starts."""
    live: Sequence[tuple[int, str]] = list(
        ModelServer.objects.filter(
            model_name=model_name, version=version, status__in=[Status.READY, Status.STARTING]
        ).values_list("replica", "status")
    )
    ready = [replica for replica, status in live if status == Status.READY]
    return min(ready or [replica for replica, _ in live] or [FIRST])


def _restart(server: ModelServer, source: str) -> bool:
    """Whether the server was put back to starting by us."""
    other_files = bool(source and server.source) and server.source != source
    outdated = server.status == Status.READY and other_files
    ended = server.status in (Status.STOPPED, Status.FAILED)
    if not (outdated or (ended and (other_files or may_retry(server)))):
        return False
    return _put_to_start(server)


def _put_to_start(server: ModelServer) -> bool:
    with transaction.atomic():
        changed = ModelServer.objects.filter(pk=server.pk, status=server.status).update(
            status=Status.STARTING,
            phase="",
            claim_expires_at=None,
            queued_at=None,
            last_used_at=timezone.now(),
            reason="",
            error="",
            **NOWHERE,
            **now(),
        )
        SUPERVISOR_BELL.ring_on_commit()
    return bool(changed)


def may_retry(server: ModelServer) -> bool:
    """Whether the pause after the server's end is over."""
    moment = timezone.now()
    if server.not_before is not None and moment < server.not_before:
        return False
    if server.status == Status.STOPPED:
        return True
    pause = timedelta(seconds=meaning(server.reason).retry_seconds)
    return server.changed_at < moment - pause


def _shown(row: ModelServer) -> Shown:
    hint = ""
    if row.reason:
        hint = meaning(row.reason).hint.format(model_name=row.model_name, version=row.version)
    return Shown(
        model_name=row.model_name,
        version=row.version,
        replica=row.replica,
        status=row.status,
        phase=row.phase,
        reason=row.reason,
        error=row.error or (meaning(row.reason).sentence if row.reason else ""),
        hint=hint,
        log_tail=row.log_tail,
        memory_mb=row.memory_mb,
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
        crashes=row.crashes,
        not_before=row.not_before,
        ready_at=row.ready_at,
        last_used_at=row.last_used_at,
    )
