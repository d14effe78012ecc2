"""Where each model version answers, in memory: the fast path looks here and nowhere else.

A version has one server or several; the one with the fewest requests at it is taken. A cold version
leaves for the slow path: rows, which the supervisor acts upon, and a wait with an end that all who
want the same version share.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.conf import settings

from inference import metrics
from inference.descriptions import Model, read_description
from inference.refusals import Refused, not_loadable, overloaded, still_starting
from inference.services import pool
from inference.services.rows import ServerView
from inference.threads import Threads
from inference.upstream import Route
from inference.versions import Versions

Key = tuple[str, str]
POLL_SECONDS = 0.1
TOUCH_SECONDS = 10.0
CHECK_SECONDS = 10.0
MORE_SECONDS = 5.0
# So many requests at every server of a version: one more server would be used.
BUSY = 8
# While the version that a selector named until now is asked this often, it serves until the new
# one's server is ready.
IN_USE_SECONDS = 2.0


@dataclass
class Lane:
    """One server and how many requests are at it now."""

    route: Route
    under_way: int = 0
    touched: float = 0.0


@dataclass
class Fleet:
    """The servers of one version."""

    lanes: list[Lane]
    checked: float
    asked: float = 0.0
    more_asked: float = 0.0
    # What these servers' model takes; looked up when somebody needs to know.
    described: Model | None = None
    series: metrics.Series = field(kw_only=True)

    def least_busy(self) -> Lane:
        if len(self.lanes) == 1:
            return self.lanes[0]
        return min(self.lanes, key=lambda lane: lane.under_way)


class Routes:
    """Of one event loop."""

    def __init__(self, threads: Threads, versions: Versions) -> None:
        self._threads = threads
        self._versions = versions
        self._fleets: dict[Key, Fleet] = {}
        self._warming: dict[Key, asyncio.Task[Fleet]] = {}
        self._serving: dict[Key, str] = {}

    async def fleet(self, key: Key) -> Fleet:
        """The servers of a version, which is waited for when it has none. Raises Refused."""
        found = self._fleets.get(key)
        return found if found is not None else await self._warm(key)

    def known_fleet(self, key: Key) -> Fleet | None:
        """None where the version has no server that is known to be ready."""
        found = self._fleets.get(key)
        return found if found is not None and found.lanes else None

    async def model(self, key: Key) -> Model:
        """What the version takes, as its servers said. Raises Refused."""
        fleet = await self.fleet(key)
        if fleet.described is None:
            said = await self._threads.call(pool.description_of, *key)
            fleet.described = read_description(*key, said or {})
        return fleet.described

    @contextmanager
    def place(self, key: Key, fleet: Fleet) -> Iterator[Route]:
        """A place at the least busy server, given back whatever happens. Raises Refused."""
        lane = self.take(key, fleet)
        try:
            yield lane.route
        finally:
            lane.under_way -= 1
        self.look_after(key, fleet, lane)

    def take(self, key: Key, fleet: Fleet) -> Lane:
        """A place at the least busy server; who takes it counts it off again. Raises Refused."""
        lane = fleet.least_busy()
        if lane.under_way >= settings.INFERENCE_QUEUE:
            waiting = sum(each.under_way for each in fleet.lanes)
            raise overloaded(*key, waiting=waiting)
        lane.under_way += 1
        return lane

    async def drop(self, key: Key, route: Route) -> None:
        """Nobody answered there."""
        fleet = self._fleets.get(key)
        if fleet is not None:
            fleet.lanes = [lane for lane in fleet.lanes if lane.route != route]
            if not fleet.lanes:
                del self._fleets[key]
        await self._threads.call(pool.report_gone, route.server_id, route.token)

    def settled(self, name: str, selector: str, number: str) -> str:
        """What a selector is answered by: until a new version's server is ready, the one before.

        Only while that is really in use: whoever comes later may wait for the new one.
        """
        if selector == number:
            return number
        known = self._serving.get((name, selector))
        if known in (None, number):
            self._serving[name, selector] = number
            return number
        if (name, number) in self._fleets or not self._in_use((name, str(known))):
            self._serving[name, selector] = number
            return number
        self._warm_quietly((name, number), selector)
        return str(known)

    def doubt(self) -> None:
        """Something changed: every version that is in use is looked up again, in the background."""
        for key, fleet in list(self._fleets.items()):
            fleet.checked = time.monotonic()
            self._threads.later(self._refresh(key))

    async def close(self) -> None:
        tasks = list(self._warming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- after an answer ------------------------------------------------------------------------
    def look_after(self, key: Key, fleet: Fleet, lane: Lane) -> None:
        """What an answered request leaves to do, none of which it waits for."""
        now = fleet.asked = time.monotonic()
        if now - lane.touched >= TOUCH_SECONDS:
            lane.touched = now
            self._threads.later(self._threads.call(pool.touch, lane.route.server_id))
        if now - fleet.checked >= CHECK_SECONDS:
            fleet.checked = now
            self._threads.later(self._check(key))
        if lane.under_way >= BUSY and now - fleet.more_asked >= MORE_SECONDS:
            fleet.more_asked = now
            self._threads.later(self._threads.call(pool.ask_for_more, *key))

    async def _check(self, key: Key) -> None:
        """Forgets a version that was deleted, or made anew with other files."""
        try:
            version = await self._versions.version(*key)
        except Refused as refused:
            if refused.problem.status == 404:
                self._fleets.pop(key, None)
            return
        fleet = self._fleets.get(key)
        if fleet and any(lane.route.source not in ("", version.source) for lane in fleet.lanes):
            self._fleets.pop(key, None)
            return
        await self._refresh(key)

    async def _refresh(self, key: Key) -> None:
        """The rows' servers become the fleet's; those that stay keep their count."""
        ready = await self._threads.call(pool.ready_servers, *key)
        fleet = self._fleets.get(key)
        if fleet is None:
            return
        known = {lane.route: lane for lane in fleet.lanes}
        routes = [_route(view) for view in ready]
        fleet.lanes = [known.get(route) or Lane(route) for route in routes]
        if not fleet.lanes:
            self._fleets.pop(key, None)

    # -- the slow path --------------------------------------------------------------------------
    async def _warm(self, key: Key) -> Fleet:
        """All who wait for the same version share one wait. Raises Refused."""
        # One who goes away must not take the others' wait along.
        return await asyncio.shield(self._warming_of(key))

    def _warming_of(self, key: Key) -> "asyncio.Task[Fleet]":
        task = self._warming.get(key)
        if task is None:
            task = asyncio.ensure_future(self._find(key))
            self._warming[key] = task
            task.add_done_callback(lambda _: self._warming.pop(key, None))
            # Everybody who waited may have gone: then nobody looks at how it ended.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _warm_quietly(self, key: Key, selector: str) -> None:
        """A version that cannot be loaded ends the patience: its own error is told from then on."""
        if key in self._warming:
            return

        def done(task: "asyncio.Task[Fleet]") -> None:
            if not task.cancelled() and task.exception() is not None:
                self._serving[key[0], selector] = key[1]

        self._warming_of(key).add_done_callback(done)

    async def _find(self, key: Key) -> Fleet:
        version = await self._versions.version(*key)
        view = await self._threads.call(lambda: pool.ensure_server(*key, source=version.source))
        if view.status == "starting":
            metrics.COLD_STARTS.labels(*key).inc()
        deadline = time.monotonic() + settings.INFERENCE_WAIT_SECONDS
        while view.status != "ready":
            if view.status == "failed" or (view.status == "stopped" and view.error):
                raise not_loadable(*key, reason=view.reason, error=view.error)
            if time.monotonic() > deadline:
                raise still_starting(*key, phase=view.phase)
            await asyncio.sleep(POLL_SECONDS)
            view = await self._threads.call(self._look_again, key, view.id)
        ready = await self._threads.call(pool.ready_servers, *key)
        now = time.monotonic()
        lanes = [Lane(_route(each)) for each in ready or [view]]
        self._fleets[key] = Fleet(lanes, now, now, series=metrics.series(*key))
        return self._fleets[key]

    @staticmethod
    def _look_again(key: Key, server_id: int) -> ServerView:
        """A server that was stopped while we waited is asked for again."""
        view = pool.look(server_id)
        if view is None or view.status == "stopped":
            return pool.ensure_server(*key)
        return view

    def _in_use(self, key: Key) -> bool:
        fleet = self._fleets.get(key)
        return fleet is not None and time.monotonic() - fleet.asked < IN_USE_SECONDS


def _route(view: ServerView) -> Route:
    return Route(view.id, view.address, view.token, view.source)
