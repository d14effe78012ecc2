"""What the supervisor does for batches: queues what is due, keeps rows true, clears away.

It keeps no state that matters: killed at any moment and started again, it finds every container
from its row, and asks for what is due.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import psutil
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_q.tasks import async_task

from inference import engine_room
from inference.batch import containers, files
from inference.batch.record import Progress
from inference.batch.states import (
    ATTEMPTS_MOST,
    ENDED,
    OPEN,
    Reason,
    Status,
    meaning_of,
)
from inference.failures import StartFailed
from inference.models import BatchPrediction, ModelServer
from inference.services import batch_rows, batch_work, batches
from inference.services.claims import UNCLAIMED, free_of_the_dead, is_free
from registry import holds
from registry.holds import Held

log = logging.getLogger(__name__)

START_TASK = "inference.tasks.start_batch"
FINISH_TASK = "inference.tasks.finish_batch"
# How long a queued task may be under way before the supervisor queues it again.
TASK_PATIENCE = timedelta(seconds=30)
LOOK_SECONDS = 1.0
DELETED_AT_ONCE = 200
MB = 1024**2
SHORT_OF_MEMORY = "waiting for memory"
HELD_WORDS = {
    Held.PAUSED: "waiting: admission is paused",
    Held.DRAINING: "waiting: the worker is being drained",
}


class BatchWatch:
    """One look at every batch that is not over; containers are asked once a second."""

    def __init__(self) -> None:
        self._looked_at = 0.0

    def tick(self) -> None:
        """Raises EngineError, EngineUnavailable, once what needs no engine has been done."""
        rows = list(BatchPrediction.objects.filter(status__in=OPEN).order_by("created_at", "id"))
        if not rows:
            return
        free_of_the_dead(BatchPrediction.objects.all())
        _give_back_unheld(rows)
        _end_what_is_not_wanted(rows)
        _start_what_waits(rows)
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            _look_at_containers(rows)
        for batch in rows:
            if batch.cancel_requested_at is not None:
                _ask_to_finish(batch)


def ask_again() -> None:
    """The queue has lost its tasks; what somebody has claimed has its own."""
    BatchPrediction.objects.filter(is_free(timezone.now()), status__in=OPEN).update(queued_at=None)


def reconcile() -> None:
    """No container without a row that names it. Raises EngineError, EngineUnavailable.

    Containers are listed before the rows are read: one whose row is written meanwhile stays.
    """
    engine = engine_room.engine()
    found = engine.find(containers.labels())
    if not found:
        return
    rows = BatchPrediction.objects.filter(status=Status.RUNNING)
    live = {str(row.pk): row for row in rows}
    for state in found:
        row = live.get(state.labels.get(containers.BATCH_LABEL, ""))
        being_started = row is not None and row.launched_at is None
        if row is None or not (being_started or row.container_id == state.id):
            log.warning("batch.orphan_removed container=%s", state.name)
            engine.remove(state.id)


def give_back_all() -> int:
    """The platform stops, and nobody works on batches any more: what runs waits for its next start.

    Returns how many. Their containers are removed by whoever stops the platform; the attempt does
    not count.
    """
    running = BatchPrediction.objects.filter(status=Status.RUNNING)
    given_back = 0
    for batch in running:
        given_back += running.filter(pk=batch.pk).update(
            status=Status.QUEUED,
            phase="",
            attempts=max(0, batch.attempts - 1),
            claim=uuid.uuid4(),
            changed_at=timezone.now(),
            **batch_rows.NOWHERE,
            **UNCLAIMED,
        )
    return given_back


def old_batches() -> QuerySet[BatchPrediction]:
    """Ended ones that are too old."""
    if not settings.KEEP_BATCHES_DAYS:
        return BatchPrediction.objects.none()
    oldest = timezone.now() - timedelta(days=settings.KEEP_BATCHES_DAYS)
    return BatchPrediction.objects.filter(status__in=ENDED, ended_at__lt=oldest)


def clear_old() -> int:
    """Removes them with their files; how many went."""
    old, count = old_batches(), 0
    while keys := list(old.values_list("pk", flat=True)[:DELETED_AT_ONCE]):
        for key in keys:
            files.remove_all(key)
        count += old.filter(pk__in=keys).delete()[0]
    return count


def remove_leftover_files() -> None:
    """Uploads that were cut off, and folders of batches that nobody knows any more.

    Folders are listed before the rows are read, and one without a row may be of an upload that is
    being accepted: it goes when it is old enough.
    """
    for folder in files.cut_off_uploads():
        log.warning("batch.upload_cut_off folder=%s", folder.name)
        shutil.rmtree(folder, ignore_errors=True)
    found = files.batches_with_files()
    known = set(BatchPrediction.objects.filter(pk__in=found).values_list("pk", flat=True))
    for key in found - known:
        if time.time() - files.folder_of(key).stat().st_mtime > TASK_PATIENCE.total_seconds():
            log.warning("batch.files_unowned batch=%s", key)
            files.remove_all(key)


# -- what is due ----------------------------------------------------------------------------------
def _give_back_unheld(rows: Sequence[BatchPrediction]) -> None:
    """Whoever prepared it is gone: the batch waits again, or it ends when that came too often."""
    moment = timezone.now()
    for batch in rows:
        held = batch.claim_expires_at is not None and batch.claim_expires_at >= moment
        if batch.status != Status.RUNNING or batch.launched_at is not None or held:
            continue
        ours = BatchPrediction.objects.filter(
            is_free(moment), pk=batch.pk, status=Status.RUNNING, launched_at=None
        )
        lost = Reason.WORKER_LOST.value
        failure = StartFailed(lost, meaning_of(lost).sentence)
        told = batch_work.to_wait_again(failure)
        if batch.attempts >= ATTEMPTS_MOST:
            told = {**told, "status": Status.FAILED, "ended_at": moment}
        if ours.update(**told, claim=uuid.uuid4(), changed_at=moment):
            log.warning("batch.worker_lost batch=%s", batch.pk)
            if told["status"] == Status.FAILED:
                files.remove_input(batch.pk)


def _end_what_is_not_wanted(rows: Sequence[BatchPrediction]) -> None:
    """Cancelled while it ran, and waiting again since: it ends as one that waits does."""
    for batch in rows:
        if batch.status == Status.QUEUED and batch.cancel_requested_at is not None:
            batches.cancel(str(batch.pk))


def _start_what_waits(rows: Sequence[BatchPrediction]) -> None:
    """The oldest first, as many as may run; one that pauses lets the next one by.

    Starts may build environments for minutes, as those of model servers do, whose share of the
    workers they are part of.
    """
    moment = timezone.now()
    waiting = [batch for batch in rows if batch.status == Status.QUEUED]
    if _are_held(waiting) or under_way() + _servers_under_way() >= settings.LONG_TASKS:
        return
    running = [batch for batch in rows if batch.status == Status.RUNNING]
    free = settings.MAX_BATCHES - len(running)
    due = [batch for batch in waiting if batch.not_before is None or batch.not_before <= moment]
    for batch in due[: max(0, free)]:
        if batch.cancel_requested_at is not None or not _is_due(batch, moment):
            continue
        if not _has_memory(batch, first=not running):
            _note_phase(batch, SHORT_OF_MEMORY)
            return
        BatchPrediction.objects.filter(pk=batch.pk, status=Status.QUEUED).update(
            queued_at=moment, phase=""
        )
        async_task(START_TASK, batch.pk, save=False)
        return  # the next one at the next look, if a worker may be spared


def under_way() -> int:
    """How many starts of batches a worker is at, or was asked for a moment ago."""
    asked = Q(status=Status.QUEUED, queued_at__gte=timezone.now() - TASK_PATIENCE)
    held = Q(status=Status.RUNNING, launched_at=None)
    return BatchPrediction.objects.filter(asked | held).count()


def _servers_under_way() -> int:
    starting = ModelServer.objects.filter(status=ModelServer.Status.STARTING)
    return starting.exclude(queued_at=None).count()


def _has_memory(batch: BatchPrediction, *, first: bool) -> bool:
    """Whether the host has it now. The first one runs whenever jobs may, or it might never."""
    free_mb = psutil.virtual_memory().available // MB
    if first:
        return free_mb >= settings.MEMORY_FREE_MB
    wanted = batch_work.room_for(batch.model_name).memory_mb
    return bool(free_mb >= wanted + settings.MEMORY_FREE_MB)


def _are_held(waiting: Sequence[BatchPrediction]) -> bool:
    """Whether somebody said that none is started; each that waits says so, and no longer."""
    if not waiting:
        return False
    first = holds.admission(waiting[0].engine).first
    for batch in waiting:
        if first is not None:
            _note_phase(batch, HELD_WORDS[first.held])
        elif batch.phase in HELD_WORDS.values():
            _note_phase(batch, "")
    return first is not None


def _note_phase(batch: BatchPrediction, phase: str) -> None:
    if batch.phase != phase:
        waiting = BatchPrediction.objects.filter(pk=batch.pk, status=Status.QUEUED)
        waiting.update(phase=phase)


def _look_at_containers(rows: Sequence[BatchPrediction]) -> None:
    launched = [batch for batch in rows if batch.launched_at is not None]
    if not launched:
        return
    engine, moment = engine_room.engine(), timezone.now()
    for batch in launched:
        state = engine.state(batch.container_id)
        late = batch.deadline_at is not None and moment >= batch.deadline_at
        if state is None or not state.running or late:
            _ask_to_finish(batch)
        else:
            _note_progress(batch, containers.progress_of(engine, state.id))


def _note_progress(batch: BatchPrediction, told: Progress | None) -> None:
    """It never goes back, whatever a container says."""
    if told is None:
        return
    ours = BatchPrediction.objects.filter(
        pk=batch.pk, status=Status.RUNNING, container_id=batch.container_id, claim_expires_at=None
    )
    ours.update(
        phase=told.phase,
        rows_done=max(batch.rows_done, told.done),
        rows_total=batch.rows_total if told.total is None else told.total,
        share_done=told.share,
        changed_at=timezone.now(),
    )


def _ask_to_finish(batch: BatchPrediction) -> None:
    moment = timezone.now()
    if batch.launched_at is None or not _is_due(batch, moment):
        return
    running = BatchPrediction.objects.filter(pk=batch.pk, status=Status.RUNNING)
    running.update(queued_at=moment)
    batch.queued_at = moment
    async_task(FINISH_TASK, batch.pk, save=False)


def _is_due(batch: BatchPrediction, moment: datetime) -> bool:
    """Nobody was asked, or whoever was asked long ago never came."""
    free = batch.claim_expires_at is None or batch.claim_expires_at < moment
    return free and (batch.queued_at is None or batch.queued_at < moment - TASK_PATIENCE)


def model_sources() -> set[tuple[str, str, str]]:
    """Name, source and version of the models whose files a batch needs."""
    rows = BatchPrediction.objects.filter(status__in=OPEN)
    return set(rows.values_list("model_name", "source", "version"))
