"""What processes tell of themselves every few seconds, for people: who is at what, what is queued.

The web process cannot see it: worker and supervisor run under another account, and a queued task is
code, signed with a key that the web process does not have. Told in words and numbers, nothing of it
is looked at by anything but a page.
"""

import logging
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.utils import timezone
from django_q.models import Task

from mlops_site.models import Report
from mlops_site.queues import queue_contents
from mlops_site.settings_table import told_by_this_process
from mlops_site.worker_unit import BUSY_MARK, Look
from sandbox import holders

log = logging.getLogger(__name__)

WORKER, SUPERVISOR, QUEUE, SETTINGS = "worker", "supervisor", "queue", "settings"
TELL_SECONDS = 5.0
CHANGED_SECONDS = 1.0
# Of a process that died without a word the report stays so long.
KEPT = timedelta(minutes=15)
FAILED_SHOWN = 10
# A worker's title ends in the task's function: `qcluster Process-1:2 processing name 'a.task'`.
FUNCTION = re.compile(r"'([^']*)'")


class WorkerBoard:
    """Tells what each process of the cluster is at: soon after it changed, else every few
    seconds."""

    def __init__(self) -> None:
        self.name = f"{WORKER} {holders.me()}"
        self._told_at = -TELL_SECONDS
        self._told: dict[int, str] = {}
        self._since: dict[int, tuple[str, datetime]] = {}

    def tell(self, look: Look) -> None:
        """A database that does not answer is told the next time."""
        titles = dict(look.workers)
        self._note(titles)
        wait = TELL_SECONDS if titles == self._told else CHANGED_SECONDS
        if time.monotonic() - self._told_at < wait:
            return
        self._told_at, self._told = time.monotonic(), titles
        try:
            Report.tell(self.name, {"whole": look.complete, "processes": self._processes()})
        except DatabaseError as error:
            log.debug("report.not_told %s", type(error).__name__)
            connection.close()

    def take_down(self) -> None:
        """The cluster ends as it should: nobody has to wonder where it is."""
        try:
            Report.objects.filter(name=self.name).delete()
        except DatabaseError as error:
            log.debug("report.not_taken_down %s", type(error).__name__)

    def _note(self, titles: Mapping[int, str]) -> None:
        """Since when each has been at it: a title names the task, and no two have the same."""
        now = timezone.now()
        kept = {
            pid: self._since[pid]
            for pid, title in titles.items()
            if pid in self._since and self._since[pid][0] == title
        }
        self._since = {pid: kept.get(pid, (title, now)) for pid, title in titles.items()}

    def _processes(self) -> list[dict[str, Any]]:
        return [
            {"pid": pid, "task": task_in(title), "since": since.isoformat()}
            for pid, (title, since) in sorted(self._since.items())
        ]


def task_in(title: str) -> str:
    """The function that a worker process is at; empty for one that is idle."""
    if BUSY_MARK not in title:
        return ""
    found = FUNCTION.search(title)
    return found.group(1) if found else "a task"


def tell_of_supervisor(engine: str) -> None:
    """That this process acts for an engine, what is queued, and which tasks failed."""
    Report.tell(f"{SUPERVISOR} {holders.me()}", {"engine": engine})
    Report.tell(QUEUE, {**queue_contents(), "failed": _failed_tasks()})
    Report.objects.filter(told_at__lt=timezone.now() - KEPT).exclude(name=SETTINGS).delete()


def tell_of_settings() -> None:
    """What this process was given, for settings that the web process is not; no secret of them."""
    Report.tell(SETTINGS, told_by_this_process())


def take_down_supervisor() -> None:
    Report.objects.filter(name=f"{SUPERVISOR} {holders.me()}").delete()


def _failed_tasks() -> list[dict[str, Any]]:
    """The last ones, without what they returned or raised."""
    columns = ("func", "stopped", "attempt_count")
    failed = Task.objects.filter(success=False).order_by("-stopped").values(*columns)
    return [
        {"func": row["func"], "at": row["stopped"].isoformat(), "tries": row["attempt_count"]}
        for row in failed[:FAILED_SHOWN]
    ]
