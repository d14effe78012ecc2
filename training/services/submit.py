"""Takes a job in: within the caps, once for each idempotency key, found by its words and tags."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count, F, Q
from django.utils import timezone
from rest_framework.exceptions import APIException

from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from training.api.submission import Edits, Submission
from training.api.upload_fields import python_problem
from training.limits import JobLimits, job_bounds
from training.models import IdempotencyKey, Job, JobTerm
from training.python_versions import default_python
from training.services import rows
from training.services.claim import Room, one_at_a_time, room_left
from training.states import Network, Priority, Status

WORD = re.compile(r"\w+")
TERM_MAX = 300
KEY_HOURS = 24
# A request that has not been answered for so long never will be: its process was killed.
KEY_IN_FLIGHT_SECONDS = 60
RETRY_AFTER_SECONDS = 30


class TooManyJobs(APIException):
    """A cap of the queue is reached; `limit` names it."""

    status_code = HTTPStatus.TOO_MANY_REQUESTS
    default_code = "too_many_jobs"
    wait = RETRY_AFTER_SECONDS

    def __init__(self, limit: str, detail: str) -> None:
        super().__init__(detail)
        self.limit = limit
        self.hint = f"Wait until some have ended; the limit is {limit}."


class NoSpace(APIException):
    """What is accepted must be kept, and there is no room to keep it."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "disk_short"
    default_detail = "The platform's disk is nearly full: no job is accepted until there is room."
    wait = RETRY_AFTER_SECONDS
    hint = "Try again later; the operator sees it on the status page."
    limit = "disk"


class KeyInFlight(APIException):
    status_code = HTTPStatus.CONFLICT
    default_code = "idempotency_key_in_flight"
    default_detail = "The first request with this Idempotency-Key is still being answered."
    wait = 1
    hint = "Send it again in a moment; the answer will be that of the first one."


class KeyReused(APIException):
    status_code = HTTPStatus.UNPROCESSABLE_ENTITY
    default_code = "idempotency_key_reused"
    default_detail = "This Idempotency-Key was sent before, with another request."
    hint = "Use a new key for a new request."


@dataclass(frozen=True)
class Client:
    """Who sends a job, and the name that they gave to this very request, if any."""

    owner: str
    idempotency_key: str = ""
    body_hash: str = ""


@dataclass(frozen=True)
class Accepted:
    """The job of a request; `replayed` when an earlier one with the same key made it."""

    job: Job
    replayed: bool = False


def submit(submission: Submission, *, client: Client, rerun_of: Job | None = None) -> Accepted:
    """Keeps the job. The row is the order: the supervisor sees it and wakes a worker.

    The web process, which calls this, cannot write to the queue: a queued task is code that a
    worker runs with access to the engine. `rerun_of` is the job that this one was made from, by
    somebody who changed what he or she saw of it.

    Raises TooManyJobs, NoSpace, KeyInFlight, KeyReused.
    """
    return _accept(submission, client=client, rerun_of=rerun_of)


def rerun(job: Job, edits: Edits, *, client: Client) -> Accepted:
    """The same script once more, as a job of its own.

    Raises UploadRejected, TooManyJobs, NoSpace, KeyInFlight, KeyReused.
    """
    first = Submission(
        script_name=job.script_name,
        script=job.script,
        experiment_name=job.experiment_name,
        model_name=job.model_name,
        requirements=tuple(job.requirements),
        environment=tuple(job.environment.items()),
        timeout=job.timeout_seconds,
        tags=tuple(job.tags.items()),
        network=Network(job.network).at_most(Network(settings.JOB_NETWORK["maximum"])),
        limits=JobLimits.of(job).within(job_bounds()),
        priority=Priority(job.priority),
        python_version=job.python_version or default_python(),
    )
    changed = {name: value for name, value in vars(edits).items() if value is not None}
    if edits.limits is not None:
        limits: dict[str, Any] = {**edits.limits}
        changed["limits"] = replace(first.limits, **limits)
    again = replace(first, **changed)
    problem = python_problem(again.python_version, offered=settings.PYTHON_VERSIONS)
    if problem is not None:
        raise problem
    return _accept(again, client=client, rerun_of=job)


def forget_old_keys() -> int:
    """Idempotency keys are kept for 24 hours. Returns how many were forgotten."""
    oldest = timezone.now() - timedelta(hours=KEY_HOURS)
    return IdempotencyKey.objects.filter(created_at__lt=oldest).delete()[0]


def _accept(submission: Submission, *, client: Client, rerun_of: Job | None = None) -> Accepted:
    if not client.idempotency_key:
        return Accepted(_keep(submission, client=client, rerun_of=rerun_of))
    return _accept_once(submission, client=client, rerun_of=rerun_of)


def _accept_once(submission: Submission, *, client: Client, rerun_of: Job | None) -> Accepted:
    now = timezone.now()
    mine = {"owner": client.owner, "key": client.idempotency_key}
    expired = timezone.now() - timedelta(hours=KEY_HOURS)
    abandoned = now - timedelta(seconds=KEY_IN_FLIGHT_SECONDS)
    IdempotencyKey.objects.filter(**mine, created_at__lt=expired).delete()
    IdempotencyKey.objects.filter(**mine, job=None, created_at__lt=abandoned).delete()
    try:
        with transaction.atomic():
            key = IdempotencyKey.objects.create(**mine, body_hash=client.body_hash, created_at=now)
    except IntegrityError:
        return _earlier(mine, client.body_hash)
    job: Job | None = None
    try:
        job = _keep_with_key(submission, client=client, rerun_of=rerun_of, key=key)
    finally:
        if job is None:
            # A request that made no job may be sent again with the same key, at once.
            IdempotencyKey.objects.filter(pk=key.pk).delete()
    return Accepted(job)


def _keep_with_key(
    submission: Submission, *, client: Client, rerun_of: Job | None, key: IdempotencyKey
) -> Job:
    """Both or none: a key that was given up meanwhile may belong to another request's job."""
    with transaction.atomic():
        job = _keep(submission, client=client, rerun_of=rerun_of)
        if not IdempotencyKey.objects.filter(pk=key.pk, job=None).update(job=job):
            raise KeyInFlight
    return job


def _earlier(mine: Mapping[str, str], body_hash: str) -> Accepted:
    key = IdempotencyKey.objects.select_related("job").filter(**mine).first()
    if key is None:
        raise KeyInFlight
    if key.body_hash != body_hash:
        raise KeyReused
    if key.job is None:
        raise KeyInFlight
    return Accepted(key.job, replayed=True)


def _keep(submission: Submission, *, client: Client, rerun_of: Job | None = None) -> Job:
    with transaction.atomic():
        one_at_a_time()
        check_caps(owner=client.owner, experiment=submission.experiment_name)
        now = timezone.now()
        job = Job.objects.create(
            script_name=submission.script_name,
            script=submission.script,
            experiment_name=submission.experiment_name,
            model_name=submission.model_name,
            requirements=list(submission.requirements),
            environment=dict(submission.environment),
            tags=dict(submission.tags),
            timeout_seconds=submission.timeout,
            **asdict(submission.limits),
            network=submission.network,
            python_version=submission.python_version,
            owner=client.owner,
            values_owner=_values_owner(submission, rerun_of, owner=client.owner),
            priority=submission.priority,
            rerun_of=rerun_of,
            created_at=now,
        )
        terms = [JobTerm(job=job, term=term, created_at=now) for term in sorted(terms_of(job))]
        JobTerm.objects.bulk_create(terms)
        detail = f"again, after {rerun_of.pk}" if rerun_of else ""
        if rerun_of is not None:
            # Its document names this job from now on.
            Job.objects.filter(pk=rerun_of.pk).update(revision=F("revision") + 1)
        rows.record(job, "accepted", detail, actor=client.owner)
        act = Act.JOB_RERUN if rerun_of else Act.JOB_UPLOAD
        told = {"name": job.script_name, "detail": detail, "actor": client.owner}
        audit.record(act, Kind.JOB, job.pk, **told)
        SUPERVISOR_BELL.ring_on_commit()
    return job


def _values_owner(submission: Submission, rerun_of: Job | None, *, owner: str) -> str:
    """Whose values were taken over from the first job; empty where they are the owner's own."""
    if rerun_of is None:
        return ""
    before = rerun_of.environment
    if not any(before.get(name) == value for name, value in submission.environment):
        return ""
    whose = rerun_of.values_owner or rerun_of.owner
    return "" if whose == owner else whose


def check_caps(*, owner: str, experiment: str, room: Room | None = None) -> None:
    """Whether one more job would be accepted now; `room` is what is left, where that is known.

    Raises TooManyJobs, NoSpace.
    """
    if (room or room_left()).short_of == "disk":
        raise NoSpace
    words = {
        "queue_jobs": "are waiting already",
        "user_jobs": "of yours are waiting or running",
        "experiment_jobs": f"of the experiment {experiment} are waiting or running",
    }
    for limit, used in jobs_alive(owner=owner, experiment=experiment).items():
        maximum = settings.JOB_CAPS[limit]
        if used >= maximum:
            detail = f"{maximum} jobs {words[limit]}, and no more are accepted."
            raise TooManyJobs(limit, detail)


def jobs_alive(*, owner: str, experiment: str) -> dict[str, int]:
    """How much of each cap is used.

    One look at the jobs that are alive: counting those of an owner by the owner's index would read
    everything that they ever sent.
    """
    return Job.objects.filter(status__in=[Status.QUEUED, Status.RUNNING]).aggregate(
        queue_jobs=Count("pk", filter=Q(status=Status.QUEUED)),
        user_jobs=Count("pk", filter=Q(owner=owner)),
        experiment_jobs=Count("pk", filter=Q(experiment_name=experiment)),
    )


def terms_of(job: Job) -> set[str]:
    """What the job is found by: its words and its tags."""
    texts = [job.script_name, job.experiment_name, job.model_name, job.owner, *job.tags.values()]
    words = {word_term(word) for text in texts for word in words_of(text)}
    tags = {tag_term(name, value) for name, value in job.tags.items()}
    return words | tags


def words_of(text: str) -> list[str]:
    """What a text search looks for: words in lower case; `churn_v2.py` is found by `churn`."""
    return [word[:200] for word in WORD.findall(text.lower().replace("_", " "))]


def word_term(word: str) -> str:
    return f"word:{word}"


def tag_term(name: str, value: str) -> str:
    return f"tag:{name}={value}"[:TERM_MAX]
