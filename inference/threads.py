"""Where the gateway's blocking calls run: few threads, and no connection is kept."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

log = logging.getLogger(__name__)
T = TypeVar("T")
THREADS = 4


class Threads:
    """Of one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="gateway")
        self._background: set[asyncio.Task[Any]] = set()

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        def guarded() -> T:
            close_old_connections()
            try:
                return function(*arguments)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Work that nobody waits for; what it raises is logged."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("gateway.background_failed", exc_info=task.exception())
