"""`manage.py supervise`: watches containers and rows, and queues what is due; keeps no state.

One acts for an engine at a time; a second one waits until the first one's lease is over. The engine
may be away, at the start or later: then it is asked again until it is back.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, close_old_connections, connection
from django_q.brokers import get_broker

from inference import compact_forms
from inference.services import batch_watching as batches
from inference.services import watching as servers
from mlops_site import reports
from mlops_site.daily import DailyWork, EnvironmentWork
from mlops_site.models import QUEUE, SUPERVISOR, Heartbeat
from mlops_site.queues import QueueWatch
from mlops_site.turn import Turn, TurnLost
from registry.doorbell import SUPERVISOR_BELL, wake_on_ring
from registry.feature_store import services as features
from sandbox.engine import Engine, EngineUnavailable
from training.leftovers import Leftovers
from training.services.claim import LOCAL_ENGINE, builders_busy
from training.services.network import NetworkWatch
from training.supervisor import JobSupervisor
from training.tallies import JobTallies

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
# For what rings when it is wanted, in case that a ring was lost.
UNRUNG_SECONDS = 1.0
SLOW_SECONDS = 5.0
WAIT_SECONDS = 1.0


class Command(BaseCommand):
    help = "Follows running containers: logs, exits, deadlines, orphans."

    def handle(self, *args: Any, **options: Any) -> None:
        stopping, wake = threading.Event(), threading.Event()

        def stop(*_: Any) -> None:
            stopping.set()
            wake.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        _keep_connection()
        turn = Turn(LOCAL_ENGINE)
        try:
            _Supervision(turn, stopping=stopping, wake=wake).run()
            turn.release()
            reports.take_down_supervisor()
        except TurnLost as lost:
            raise CommandError("Another supervisor may act for this engine now.") from lost


class _Supervision:
    """From the wait for the turn to the end of it. Raises TurnLost."""

    def __init__(self, turn: Turn, *, stopping: threading.Event, wake: threading.Event) -> None:
        self._turn = turn
        self._stopping = stopping
        self._wake = wake
        self._failing: dict[str, str] = {}

    def run(self) -> None:
        if not self._wait_for_turn():
            return
        engine = self._wait_for_engine()
        if engine is None:
            return
        wake_on_ring(SUPERVISOR_BELL, self._wake, stopping=self._stopping)
        jobs = JobSupervisor(engine=engine, wake=self._wake, may_act=self._turn.check)
        self._supervise(jobs, Leftovers(engine))

    def _wait_for_turn(self) -> bool:
        """Until no other supervisor acts for this engine; False when this one is to end."""
        told = False
        while not self._take_turn():
            if not told:
                log.warning("supervisor.waits: another one acts for this engine")
                told = True
            if self._stopping.wait(WAIT_SECONDS):
                return False
        log.warning("supervisor.acts")
        return True

    def _take_turn(self) -> bool:
        try:
            close_old_connections()
            return self._turn.take()
        except DatabaseError:
            log.warning("supervisor.database_away", exc_info=True)
            return False

    def _wait_for_engine(self) -> Engine | None:
        """None when this process is to end before there is one."""
        while not self._stopping.is_set():
            self._turn.check()
            try:
                return Engine.connect()
            except EngineUnavailable as error:
                self._note_failure("engine", error)
            self._guarded(_beat)
            self._stopping.wait(WAIT_SECONDS)
        return None

    def _supervise(self, jobs: JobSupervisor, leftovers: Leftovers) -> None:
        slow_at, unrung_at = 0.0, 0.0
        due: list[Callable[[], None]] = []
        network, queue = NetworkWatch(), QueueWatch()
        batch_watch = batches.BatchWatch()
        daily, environments = DailyWork(), EnvironmentWork()
        tallies = JobTallies()

        def ask_again() -> None:
            if not queue.has_forgotten():
                return
            log.warning("queue.forgot: what it lost is asked for again")
            jobs.ask_again()
            servers.ask_again()
            batches.ask_again()
            features.ask_again()
            for each in (network, daily, environments):
                each.ask_again()

        self._guarded(servers.start_what_was_live)
        self._guarded(reports.tell_of_settings)
        slow_looks = (
            _beat,
            _reach_queue,
            _report,
            network.look,
            jobs.measure,
            leftovers.restore_networks,
            jobs.reconcile,
            servers.reconcile,
            batches.reconcile,
            batches.remove_leftover_files,
            servers.balance,
            servers.remove_cut_off_downloads,
            leftovers.remove_abandoned_builds,
            leftovers.remove_helpers,
            leftovers.remove_forgotten_users,
            daily.ask,
            environments.ask,
            tallies.look,
        )
        while not self._stopping.is_set():
            woken = self._wake.is_set()
            self._wake.clear()
            self._guarded(ask_again)
            self._guarded(jobs.tick)
            if woken or time.monotonic() >= unrung_at:
                unrung_at = time.monotonic() + UNRUNG_SECONDS
                self._guarded(servers.dispatch)
                self._guarded(compact_forms.dispatch)
                self._guarded(batch_watch.tick)
                self._guarded(_dispatch_features)
            if not due and time.monotonic() >= slow_at:
                slow_at = time.monotonic() + SLOW_SECONDS
                due = [*slow_looks]
            elif jobs.reconcile_due:
                self._guarded(jobs.reconcile)
            if due:
                # One at a time: no log stands still, and no job waits, for all of them together.
                self._guarded(due.pop(0))
            else:
                self._wake.wait(TICK_SECONDS)

    def _guarded(self, look: Callable[[], None]) -> None:
        """One of the two loop guards: whatever fails is logged and looked at again.

        Raises TurnLost, before `look` has done anything.
        """
        self._turn.check()
        name = f"{look.__module__}.{look.__qualname__}"
        try:
            close_old_connections()
            look()
        except TurnLost:
            raise
        except Exception as error:  # noqa: BLE001
            self._note_failure(name, error)
        else:
            self._failing.pop(name, None)

    def _note_failure(self, name: str, error: Exception) -> None:
        """Once for each kind of failure, until it works again: a look comes five times a second."""
        kind = f"{type(error).__name__}: {error}"
        if self._failing.get(name) == kind:
            return
        self._failing[name] = kind
        known = isinstance(error, EngineUnavailable)
        log.error("supervisor.look_failed %s: %s", name, kind, exc_info=None if known else error)


def _keep_connection() -> None:
    """A database file would be opened anew for each look, as the web does for each request."""
    usual = connection.settings_dict
    usual["CONN_MAX_AGE"] = usual["CONN_MAX_AGE"] or None


def _beat() -> None:
    Heartbeat.beat(SUPERVISOR)


def _dispatch_features() -> None:
    """Builds and what is done with Feast share the workers that may be long at one thing."""
    features.dispatch(may_begin=lambda: not builders_busy())


def _report() -> None:
    reports.tell_of_supervisor(LOCAL_ENGINE)


def _reach_queue() -> None:
    """So that whoever asks what is wrong is told of a Redis that is away."""
    if get_broker().ping():
        Heartbeat.beat(QUEUE)
