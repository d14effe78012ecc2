"""Which version a selector means now, held in memory; MLflow is asked in the background.

A number is itself. What `latest` and an alias mean is asked again when it is older than
FRESH_SECONDS, while the old answer still serves; one that is older than STALE_SECONDS is waited
for. So a change behind our back, in MLflow itself, is seen within STALE_SECONDS at the latest, and
one through our own API at once: it rings the gateway's bell. While MLflow is away, what was known
goes on serving.
"""

import asyncio
import time
from dataclasses import dataclass

from rest_framework.exceptions import APIException

from inference.question import LATEST
from inference.refusals import Refused, from_api, version_not_found
from inference.threads import Threads
from registry.mlflow_client import ModelRegistry, ModelVersion, model_registry

FRESH_SECONDS = 1.0
STALE_SECONDS = 5.0
# A guard against callers who invent names: the oldest are forgotten.
KNOWN_MOST = 2000
Asked = tuple[str, str]


@dataclass
class Known:
    """What a selector meant, and when that was asked."""

    number: str
    at: float


class Versions:
    """Of one event loop."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._known: dict[Asked, Known] = {}
        self._asking: dict[Asked, asyncio.Task[ModelVersion]] = {}

    async def number(self, name: str, selector: str) -> str:
        """Raises Refused."""
        return self.known_number(name, selector) or await self._refresh(name, selector)

    def known_number(self, name: str, selector: str) -> str | None:
        """None where MLflow has to be waited for."""
        if selector.isdecimal():
            return selector
        known = self._known.get((name, selector))
        age = time.monotonic() - known.at if known else STALE_SECONDS + 1
        if known is not None and age <= FRESH_SECONDS:
            return known.number
        if known is not None and age <= STALE_SECONDS:
            if (name, selector) not in self._asking:
                self._threads.later(self._refresh_quietly(name, selector))
            return known.number
        return None

    async def version(self, name: str, selector: str) -> ModelVersion:
        """From MLflow; those who ask at the same time share one call. Raises Refused."""
        asked = (name, selector)
        task = self._asking.get(asked)
        if task is None:
            task = asyncio.ensure_future(self._threads.call(_look_up, name, selector))
            self._asking[asked] = task
            task.add_done_callback(lambda _: self._asking.pop(asked, None))
        try:
            return await asyncio.shield(task)
        except APIException as error:
            if error.status_code == 404 and selector != LATEST:
                raise version_not_found(name, selector) from error
            raise from_api(error) from error

    def doubt(self) -> None:
        """Something changed: nothing that is known is served again before it was asked for."""
        for known in self._known.values():
            known.at = float("-inf")

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self, name: str, selector: str) -> str:
        asked = (name, selector)
        try:
            number = (await self.version(name, selector)).version
        except Refused as refused:
            known = self._known.get(asked)
            if known is None or refused.problem.status != 503:
                self._known.pop(asked, None)
                raise
            number = known.number
        self._known.pop(asked, None)
        self._known[asked] = Known(number, time.monotonic())
        if len(self._known) > KNOWN_MOST:
            del self._known[next(iter(self._known))]
        return number

    async def _refresh_quietly(self, name: str, selector: str) -> None:
        try:
            await self._refresh(name, selector)
        except Refused:
            # Whoever asks next hears it.
            return


def _look_up(name: str, selector: str) -> ModelVersion:
    registry: ModelRegistry = model_registry()
    if selector == LATEST:
        return registry.version(name, None)
    if selector.isdecimal():
        return registry.version(name, selector)
    return registry.aliased(name, selector)
