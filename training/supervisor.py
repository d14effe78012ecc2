"""Observes job containers: their output, their end, their deadline, and what nobody holds.

It keeps no state that matters: killed at any moment and started again, it finds every container
from its rows, takes up each log where the stored part ends, and asks for what is due. It never
decides how a job ended; it only asks a worker to.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from sandbox.engine import Engine, EngineError, EngineUnavailable
from training import logs, services
from training.models import Attempt, LogChunk

log = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
ASK_AGAIN_SECONDS = 20.0
LAUNCH_AGAIN_SECONDS = 5.0
DEADLINE_SLACK_SECONDS = 5


class LogFollower:
    """Reads one container's output in a thread; the supervisor stores what it has read.

    Bytes that an earlier follower stored are skipped: the engine always starts at the beginning.
    """

    def __init__(self, *, engine: Engine, attempt: Attempt, wake: threading.Event) -> None:
        self.attempt = attempt
        self._engine = engine
        self._wake = wake
        self._offset = logs.stored_end(attempt, LogChunk.Part.RUN)
        self._read = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="log-follower", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def store(self) -> None:
        """Writes what was read since the last call."""
        with self._lock:
            data = bytes(self._read)
            self._read.clear()
        if data:
            logs.append(self.attempt, LogChunk.Part.RUN, offset=self._offset, data=data)
            self._offset += len(data)

    def _follow(self) -> None:
        to_skip = self._offset
        try:
            for data in self._engine.follow_logs(self.attempt.container_id):
                fresh = data[to_skip:]
                to_skip = max(0, to_skip - len(data))
                with self._lock:
                    self._read += fresh
        except (EngineError, EngineUnavailable):
            log.warning("job.log_broke_off", extra={"attempt": self.attempt.pk})
        finally:
            self._wake.set()


class JobSupervisor:
    """One look at every job container at each `tick`; a look for leftovers at each `reconcile`.

    `wake` is set when a container's output ends, so that its end is not noticed a tick late.
    """

    def __init__(self, *, engine: Engine, wake: threading.Event | None = None) -> None:
        self._engine = engine
        self._wake = wake or threading.Event()
        self._followers: dict[int, LogFollower] = {}
        self._asked_at: dict[int, float] = {}
        self._renewed_at = 0.0
        self._launch_asked: tuple[uuid.UUID | None, float] = (None, 0.0)

    def tick(self) -> None:
        """Follow what runs, end what is over, renew what is alive, launch what waits."""
        held = list(self._held())
        self._forget(keep={attempt.pk for attempt in held})
        for attempt in held:
            self._observe(attempt)
        self._renew(held)
        self._launch_what_waits()

    def reconcile(self) -> None:
        """Finds orphans in both directions: rows without a holder, containers without a row."""
        for attempt in self._expired():
            self._recover(attempt)
        self._remove_leftovers()
        for attempt in Attempt.objects.filter(finished_at__isnull=False).exclude(
            mlflow_username=""
        ):
            services.clean_up(attempt)

    def _launch_what_waits(self) -> None:
        """Once for each job that comes first in line, and again when nothing came of it."""
        first = services.next_to_launch()
        asked_for, asked_at = self._launch_asked
        stale = time.monotonic() - asked_at >= LAUNCH_AGAIN_SECONDS
        if first is None or (first == asked_for and not stale):
            return
        self._launch_asked = (first, time.monotonic())
        services.ask_to_launch()

    def _held(self) -> QuerySet[Attempt]:
        held = Attempt.objects.filter(finished_at=None, lease_owner=services.SUPERVISOR)
        return held.select_related("job")

    def _expired(self) -> Iterable[Attempt]:
        expired = Attempt.objects.filter(finished_at=None, lease_expires_at__lt=timezone.now())
        return list(expired.select_related("job"))

    def _forget(self, *, keep: set[int]) -> None:
        for attempt_id in set(self._followers) - keep:
            del self._followers[attempt_id]
            self._asked_at.pop(attempt_id, None)

    def _observe(self, attempt: Attempt) -> None:
        follower = self._followers.get(attempt.pk)
        if follower is None:
            follower = LogFollower(engine=self._engine, attempt=attempt, wake=self._wake)
            self._followers[attempt.pk] = follower
        output_ended = follower.ended
        follower.store()
        if output_ended:
            self._look_at_end(attempt)
        elif self._is_overdue(attempt):
            self._enforce_deadline(attempt)

    def _look_at_end(self, attempt: Attempt) -> None:
        """The output is over: so is the container, unless the engine broke the stream off."""
        state = self._engine.state(attempt.container_id)
        if state is not None and state.running:
            del self._followers[attempt.pk]
            return
        self._ask_to_finish(attempt)

    def _ask_to_finish(self, attempt: Attempt) -> None:
        """Again after a while, since the queue may lose a task; a second one does nothing."""
        now = time.monotonic()
        if now - self._asked_at.get(attempt.pk, -ASK_AGAIN_SECONDS) < ASK_AGAIN_SECONDS:
            return
        self._asked_at[attempt.pk] = now
        services.ask_to_finish(attempt.pk)

    def _is_overdue(self, attempt: Attempt) -> bool:
        """The launcher in the container keeps the deadline itself; this is for when it cannot."""
        slack = timedelta(seconds=settings.JOB_GRACE_SECONDS + DEADLINE_SLACK_SECONDS)
        return attempt.deadline_at is not None and timezone.now() > attempt.deadline_at + slack

    def _enforce_deadline(self, attempt: Attempt) -> None:
        try:
            services.note_deadline(attempt)
        except services.LeaseLost:
            return
        self._engine.kill(attempt.container_id)

    def _renew(self, held: list[Attempt]) -> None:
        if time.monotonic() - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = time.monotonic()
        services.renew_leases([attempt.pk for attempt in held])

    def _recover(self, attempt: Attempt) -> None:
        """Whoever held this attempt is gone. What its container says decides how to go on."""
        state = self._engine.state(attempt.container_id) if attempt.container_id else None
        try:
            services.take_over(attempt)
            if state is None or state.started_at is None:
                self._start_over_or_finish(attempt)
            elif attempt.container_started_at is None:
                services.hand_over(attempt, started_at=state.started_at)
        except services.LeaseLost:
            return

    def _start_over_or_finish(self, attempt: Attempt) -> None:
        """There is no started container: it was never started, or somebody removed it."""
        if attempt.container_started_at is not None:
            return  # the tick sees the missing container and asks to finish
        if attempt.container_id:
            self._engine.remove(attempt.container_id)
        services.start_over(attempt)

    def _remove_leftovers(self) -> None:
        """Containers of jobs that nothing will ever finish: their attempt is over or unknown."""
        labels = {"mlops.installation": settings.INSTALLATION_ID, "mlops.kind": "job"}
        found = self._engine.find(labels)
        wanted = {state.labels.get("mlops.attempt", "") for state in found}
        numbers = [int(number) for number in wanted if number.isdigit()]
        open_attempts = Attempt.objects.filter(pk__in=numbers, finished_at=None)
        alive = {str(pk) for pk in open_attempts.values_list("pk", flat=True)}
        for state in found:
            if state.labels.get("mlops.attempt", "") not in alive:
                self._engine.remove(state.id)
