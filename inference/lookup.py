"""Features for whoever runs in a thread, read by the process that reads them for predictions.

There is one such process: a second one would take its memory, and its seconds, once more.
"""

import asyncio
import threading
from concurrent.futures import Future

from django.conf import settings

from inference import gateway
from registry.online.client import FeaturesAway, FeaturesBusy
from registry.online.frames import Feature, FeatureQuestion, NotNow

# Each holds one of few threads for as long as it waits.
AT_ONCE = 3
# More than the store itself is given: then its own words come.
PATIENCE_SECONDS = 1.0


class Lookups:
    """The way from a thread to the event loop that serves; there is none before `serve`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def serve(self) -> None:
        """Questions are answered by the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        self._loop = None

    def look_up(self, question: FeatureQuestion) -> list[Feature]:
        """Waits for the answer, or for long enough.

        Raises NotReadable, NotNow, FeaturesAway, FeaturesLate and FeaturesBusy.
        """
        loop = self._loop
        if loop is None:
            raise FeaturesAway("This process does not read features.")
        if not self._turns.acquire(blocking=False):
            raise FeaturesBusy
        try:
            return _waited(asyncio.run_coroutine_threadsafe(_asked(question), loop))
        finally:
            self._turns.release()


async def _asked(question: FeatureQuestion) -> list[Feature]:
    return await gateway.current().features.client().ask(question)


def _waited(answer: "Future[list[Feature]]") -> list[Feature]:
    try:
        return answer.result(settings.FEATURES_SECONDS + PATIENCE_SECONDS)
    except TimeoutError:
        # What starts for it goes on, and is there for the next question.
        answer.cancel()
        raise NotNow("The process that reads features is still starting.") from None


LOOKUPS = Lookups()
