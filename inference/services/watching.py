"""What the supervisor does for model servers: queues what is due, keeps rows true."""

import logging
from datetime import timedelta
from itertools import groupby

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django_q.tasks import async_task

from inference import containers, engine_room, model_files
from inference.failures import StartFailed
from inference.models import ModelServer
from inference.services import batch_watching, pool, starting
from inference.services.claims import CLAIM_RENEW_SECONDS, free_of_the_dead, is_free
from inference.services.kept import kept_versions
from inference.services.policy import Policy, default_policy, policies
from inference.services.rows import LIVE, NOWHERE, Status, now
from inference.states import CRASHES_MOST, Reason
from registry.doorbell import GATEWAY_BELL
from sandbox.engine import Engine, FoundContainer

log = logging.getLogger(__name__)

START_TASK = "inference.tasks.start_server"
STOP_TASK = "inference.tasks.stop_server"
# How long a queued task may be under way before the supervisor queues it again.
TASK_PATIENCE_SECONDS = 30
# Longer than a gateway takes to notice that another server has taken a place.
DRAIN_SECONDS = 15
MEASURED_AT_ONCE = 4
WANTED_AGAIN_SECONDS = 600


def dispatch() -> None:
    """Queues a task for every server that is to start or stop and that nobody was asked for.

    Again after a while without a claim: the task was lost, or its worker was killed. The web
    process cannot do this itself: it has no key to the queue. A start waits for its model, so that
    only some are under way at once, the longest wanted first: jobs need workers too, and batches.
    """
    starting_rows = ModelServer.objects.filter(status=Status.STARTING)
    free_of_the_dead(starting_rows)
    moment = timezone.now()
    late = Q(queued_at__lt=moment - timedelta(seconds=TASK_PATIENCE_SECONDS))
    due = Q(queued_at=None) | (late & is_free(moment))
    under_way = starting_rows.exclude(due).count() + batch_watching.under_way()
    wanted = starting_rows.filter(due).order_by("changed_at")
    for server in wanted[: max(0, settings.LONG_TASKS - under_way)]:
        _queue(server, START_TASK)
    for server in ModelServer.objects.filter(due, status=Status.STOPPING):
        _queue(server, STOP_TASK)


def ask_again() -> None:
    """The queue has lost its tasks; a start that somebody has claimed has its own."""
    open_ones = ModelServer.objects.filter(status__in=[Status.STARTING, Status.STOPPING])
    open_ones.filter(is_free(timezone.now())).update(queued_at=None)


def reconcile() -> None:
    """Rows and containers agree again, whoever was killed. Raises EngineError, EngineUnavailable.

    Containers are listed before the rows are read: a row that has become live in between keeps its
    container.
    """
    engine = engine_room.engine()
    found = engine.find({"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": "server"})
    _notice_the_dead(engine, found)
    _remove_orphans(engine, found)
    _measure(engine)


def start_what_was_live() -> None:
    """Once, when the supervisor begins: what ran when the platform stopped runs again."""
    stopped = ModelServer.objects.filter(
        status=Status.STOPPED, reason=Reason.PLATFORM_STOPPED
    ).order_by("-last_used_at")
    for server in stopped[: settings.MAX_MODEL_SERVERS]:
        pool.ensure_server(server.model_name, server.version)


def balance() -> None:
    """Servers as the policies want them: enough of each, none idle for too long, none outdated."""
    known = policies()
    kept = kept_versions(known)
    ready = ModelServer.objects.filter(status=Status.READY).order_by(
        "model_name", "version", "replica"
    )
    for (name, version), group in groupby(ready, key=lambda row: (row.model_name, row.version)):
        policy = known.get(name) or default_policy()
        servers = list(group)
        if not _replace(name, version, servers, policy):
            is_kept = version in kept.get(name, ())
            _stop_idle(servers[policy.min_servers :] if is_kept else servers, policy)
    for name, versions in kept.items():
        for version in sorted(versions):
            _keep_enough(name, version, known[name])
    _try_again()


# -- rows and containers ------------------------------------------------------------------------
def _queue(server: ModelServer, task: str) -> None:
    queued = ModelServer.objects.filter(pk=server.pk, status=server.status)
    queued.update(queued_at=timezone.now())
    async_task(task, server.pk, save=False)


def _notice_the_dead(engine: Engine, found: list[FoundContainer]) -> None:
    """Ready rows without a running container: started again at once where somebody uses them."""
    running = {container.id for container in found if container.running}
    listed_at = timezone.now() - timedelta(seconds=CLAIM_RENEW_SECONDS)
    ready = ModelServer.objects.filter(status=Status.READY)
    for server in ready.exclude(container_id__in=running).exclude(ready_at__gt=listed_at):
        state = engine.state(server.container_id)
        ending = containers.ending(state, engine, memory_mb=server.memory_mb)
        _end_row(server, ending)


def _end_row(server: ModelServer, ending: StartFailed) -> None:
    changed = ModelServer.objects.filter(
        pk=server.pk, status=Status.READY, container_id=server.container_id
    ).update(
        status=Status.STOPPED,
        reason=ending.reason,
        error=ending.sentence,
        **NOWHERE,
        **now(),
    )
    if not changed:
        return
    crashes = starting.note_crash(server, ending)
    GATEWAY_BELL.ring()
    if crashes >= CRASHES_MOST:
        ModelServer.objects.filter(pk=server.pk, status=Status.STOPPED).update(
            status=Status.FAILED,
            reason=Reason.CRASH_LOOP,
            error=f"It ended {crashes} times in a row; the last time: {ending.sentence}",
        )
    elif _is_wanted(server):
        pool.ensure_server(server.model_name, server.version)


def _is_wanted(server: ModelServer) -> bool:
    """Somebody asked it a moment ago; whoever asks next should not wait."""
    recent = timezone.now() - timedelta(seconds=pool.WANTED_SECONDS)
    return server.last_used_at is not None and server.last_used_at > recent


def _remove_orphans(engine: Engine, found: list[FoundContainer]) -> None:
    live = {str(row.pk): row for row in ModelServer.objects.filter(status__in=LIVE)}
    for container in found:
        row = live.get(container.labels.get("mlops.server", ""))
        is_ready = row is not None and row.status == Status.READY
        if row is None or (is_ready and row.container_id != container.id):
            log.warning("server.orphan_removed", extra={"container": container.name})
            engine.remove(container.id)


def _measure(engine: Engine) -> None:
    """What some of the servers use of memory; the engine takes a second for each."""
    ready = ModelServer.objects.filter(status=Status.READY)
    if (timezone.now().second // 5) % 6:
        return
    for server in ready.order_by("-last_used_at")[:MEASURED_AT_ONCE]:
        usage = engine.usage(server.container_id)
        if usage is not None:
            ModelServer.objects.filter(pk=server.pk, status=Status.READY).update(
                memory_bytes=usage.memory_bytes
            )


# -- policy -------------------------------------------------------------------------------------
def _replace(name: str, version: str, servers: list[ModelServer], policy: Policy) -> bool:
    """Servers with other limits than they should have go, once one with the right ones is ready."""
    outdated = [
        row for row in servers if (row.memory_mb, row.cpus) != (policy.memory_mb, policy.cpus)
    ]
    if not outdated:
        return False
    settled = timezone.now() - timedelta(seconds=DRAIN_SECONDS)
    fresh = [row for row in servers if row not in outdated]
    if any(row.ready_at and row.ready_at < settled for row in fresh):
        for row in outdated:
            pool.stop(row.pk, reason=Reason.REPLACED)
        return True
    if not fresh and not _is_begun(name, version):
        pool.add_server(name, version)
    return True


def _is_begun(name: str, version: str) -> bool:
    """Whether a server starts, or has failed so lately that none is to be tried yet."""
    held = ModelServer.objects.filter(model_name=name, version=version)
    failed = held.filter(status=Status.FAILED)
    starts = held.filter(status=Status.STARTING).exists()
    return starts or any(not pool.may_retry(row) for row in failed)


def _stop_idle(spare: list[ModelServer], policy: Policy) -> None:
    """Those that the policy does not keep, once nobody asked them for a while."""
    if not policy.idle_seconds or policy.pinned:
        return
    since = timezone.now() - timedelta(seconds=policy.idle_seconds)
    for row in spare:
        if row.last_used_at is None or row.last_used_at < since:
            pool.stop(row.pk, reason=Reason.IDLE)


def _try_again() -> None:
    """Starts that failed because a part of the platform was away, of versions that are wanted."""
    wanted = timezone.now() - timedelta(seconds=WANTED_AGAIN_SECONDS)
    failed = ModelServer.objects.filter(status=Status.FAILED, last_used_at__gt=wanted)
    for row in failed.filter(reason__in=[Reason.REGISTRY_UNAVAILABLE, Reason.ENGINE_FAILED]):
        pool.ensure_server(row.model_name, row.version)


def _keep_enough(name: str, version: str, policy: Policy) -> None:
    """As many servers of the version as the policy wants at least."""
    held = ModelServer.objects.filter(model_name=name, version=version)
    live = held.filter(status__in=LIVE).count()
    if live == 0:
        pool.ensure_server(name, version)
    elif live < policy.min_servers and not _is_begun(name, version):
        pool.add_server(name, version)


# -- files --------------------------------------------------------------------------------------
def remove_cut_off_downloads() -> None:
    """What killed workers left of downloads; one that runs right now is left alone."""
    for name in model_files.remove_cut_off():
        log.warning("model.download_cut_off", extra={"folder": name})


def remove_unowned_models() -> None:
    """Files that no server's row names, since their version was made anew from other ones."""
    for name in model_files.remove_unowned(_owned_folders):
        log.warning("model.files_unowned", extra={"folder": name})


def _owned_folders() -> set[str]:
    owned = set(ModelServer.objects.values_list("model_name", "source", "version"))
    return {model_files.folder_name(*row) for row in owned | batch_watching.model_sources()}
