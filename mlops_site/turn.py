"""Whose turn it is to supervise an engine: one process at a time, by a lease in the database."""

import time
import uuid
from collections.abc import Callable

from django.db import DatabaseError

from training.services import observe

RENEW_SECONDS = 3.0
# Before the lease is over: a clock may be read late, and what is begun takes a moment.
SAFETY_SECONDS = 3.0


class TurnLost(Exception):
    """Another process may act for this engine now: whoever raised this must not."""


class Turn:
    """This process' right to act for one engine.

    `check` comes before every act. A process that was stopped for longer than its lease (by a
    signal, by a machine that sleeps) finds there that the right may have passed to another one.
    """

    def __init__(
        self,
        engine: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        holder: uuid.UUID | None = None,
    ) -> None:
        self._engine = engine
        self._holder = holder or uuid.uuid4()
        self._clock = clock
        self._held_at: float | None = None

    def take(self) -> bool:
        """Whether the right is ours: it was free, or it was ours already. Raises DatabaseError."""
        asked_at = self._clock()
        held = observe.hold_engine(self._engine, self._holder)
        self._held_at = asked_at if held else None
        return held

    def check(self) -> None:
        """Costs nothing while the lease is young, and renews it in time. Raises TurnLost."""
        if self._held_at is None:
            raise TurnLost
        if self._clock() - self._held_at < RENEW_SECONDS:
            return
        try:
            if self.take():
                return
        except DatabaseError as error:
            if self._clock() - self._held_at < self._safe_seconds:
                return
            raise TurnLost from error
        raise TurnLost

    def release(self) -> None:
        """The next one need not wait for the lease to run out. Raises DatabaseError."""
        if self._held_at is not None:
            observe.release_engine(self._engine, self._holder)
            self._held_at = None

    @property
    def _safe_seconds(self) -> float:
        return observe.SUPERVISOR_LEASE_SECONDS - SAFETY_SECONDS
