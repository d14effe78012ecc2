"""Clears away what is old: ended jobs, what they printed, their MLflow runs, idempotency keys.

What a registered model came from stays, however old it is: its job with script and lock, and its
run; environments are never deleted here. Each thing goes in a transaction of its own, so that the
database is never locked for long, and so that an interrupted call is gone on with by the next one.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from django.conf import settings
from django.db import transaction
from django.db.models import F, Model, Q, QuerySet
from django.utils import timezone

from registry.mlflow_client import ModelRegistry
from training import containers
from training.models import Attempt, IdempotencyKey, Job, LogChunk
from training.services.submit import KEY_HOURS, forget_old_keys
from training.states import TERMINAL

log = logging.getLogger(__name__)

BATCH = 200
T = TypeVar("T")
M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Rule:
    """What is older than `days` goes, and what is not of the `newest`; 0: that says nothing."""

    days: int
    newest: int = 0

    def __str__(self) -> str:
        words = [f"ended more than {self.days} days ago"] if self.days else []
        words += [f"not of the {self.newest} newest"] if self.newest else []
        return " or ".join(words) or "kept for ever"


@dataclass(frozen=True)
class Line:
    """One kind of thing: how many go, and how many stay because a model came from them."""

    what: str
    rule: str
    go: int
    stay: int = 0


class Retention:
    """One look at what is old. `over` says whether the time for this call is used up."""

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        now: datetime | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._registry = registry
        self._now = now or timezone.now()
        self._over = over
        self._jobs_rule = Rule(settings.KEEP_JOBS_DAYS, settings.KEEP_JOBS)
        self._logs_rule = Rule(settings.KEEP_LOGS_DAYS, settings.KEEP_LOGS_OF_JOBS)
        self._runs_rule = Rule(settings.KEEP_RUNS_DAYS)

    def preview(self) -> list[Line]:
        """What `clear` would do; changes nothing. Raises RegistryUnavailable."""
        needed = self._registry.jobs_with_models()
        oldest_key = self._now - timedelta(hours=KEY_HOURS)
        return [
            _line("jobs", self._jobs_rule, self._old_jobs(), needed),
            _line("MLflow runs, by job", self._runs_rule, self._jobs_with_old_runs(), needed),
            Line("logs, by attempt", str(self._logs_rule), self._old_logs().count()),
            Line(
                "idempotency keys",
                f"older than {KEY_HOURS} hours",
                IdempotencyKey.objects.filter(created_at__lt=oldest_key).count(),
            ),
        ]

    def clear(self) -> bool:
        """Whether everything that is old is gone; else the next call goes on.

        Raises RegistryUnavailable, after what needs no MLflow has been cleared.
        """
        forget_old_keys()
        logs = self._each(_in_batches(self._old_logs()), _delete_log)
        needed = self._registry.jobs_with_models()
        jobs = self._each(_without(self._old_jobs(), needed), self._delete_job)
        runs = self._each(_without(self._jobs_with_old_runs(), needed), self._delete_runs)
        log.info("retention.cleared jobs=%s runs=%s logs=%s", jobs, runs, logs)
        return not self._over()

    # -- what is old -------------------------------------------------------------------------------
    def _old_jobs(self) -> QuerySet[Job]:
        return _ended().filter(self._is_old(self._jobs_rule))

    def _jobs_with_old_runs(self) -> QuerySet[Job]:
        return _ended().exclude(run_id="").filter(self._is_old(self._runs_rule))

    def _old_logs(self) -> QuerySet[Attempt]:
        jobs = _ended().filter(self._is_old(self._logs_rule))
        return Attempt.objects.filter(log_bytes__gt=0, job__in=jobs)

    def _is_old(self, rule: Rule) -> Q:
        """A job that ended before some moment was made before it too: that is in an index."""
        old = Q(pk__in=[])
        if rule.days:
            moment = self._now - timedelta(days=rule.days)
            old |= Q(created_at__lt=moment, completed_at__lt=moment)
        if rule.newest:
            made = _ended().order_by("-created_at").values_list("created_at", flat=True)
            first_too_many = made[rule.newest : rule.newest + 1].first()
            if first_too_many is not None:
                old |= Q(created_at__lte=first_too_many)
        return old

    # -- how it goes -------------------------------------------------------------------------------
    def _each(self, old: Iterator[T], delete: Callable[[T], None]) -> int:
        """Returns how many went before the time was used up."""
        count = 0
        for each in old:
            if self._over():
                break
            delete(each)
            count += 1
        return count

    def _delete_job(self, job: Job) -> None:
        self._delete_runs(job)
        for attempt in job.attempts.all():
            _delete_log(attempt)
        with transaction.atomic():
            Job.objects.filter(pk=job.pk, status__in=TERMINAL).delete()

    def _delete_runs(self, job: Job) -> None:
        for attempt in job.attempts.select_related("job"):
            self._registry.delete_runs_without_model(containers.attempt_tag(attempt))
        Job.objects.filter(pk=job.pk).update(run_id="", revision=F("revision") + 1)


def _ended() -> QuerySet[Job]:
    return Job.objects.filter(status__in=TERMINAL)


def _line(what: str, rule: Rule, old: QuerySet[Job], needed: frozenset[str]) -> Line:
    go = sum(1 for _ in _without(old, needed))
    return Line(what, str(rule), go, old.count() - go)


def _without(old: QuerySet[Job], needed: frozenset[str]) -> Iterator[Job]:
    """Those that no registered model came from."""
    slim = old.only("pk", "status", "run_id")
    return (job for job in _in_batches(slim) if str(job.pk) not in needed)


def _in_batches(rows: QuerySet[M]) -> Iterator[M]:
    """By their ids, a page at a time: no reading transaction stays open while they are deleted."""
    after = None
    while True:
        page = rows.order_by("pk")
        batch = list((page if after is None else page.filter(pk__gt=after))[:BATCH])
        if not batch:
            return
        yield from batch
        after = batch[-1].pk


def _delete_log(attempt: Attempt) -> None:
    with transaction.atomic():
        LogChunk.objects.filter(attempt_id=attempt.pk).delete()
        # What is gone has no offsets any more.
        Attempt.objects.filter(pk=attempt.pk).update(log_bytes=0)
