"""Ends a job that somebody no longer wants, in whatever state it is."""

import uuid
from dataclasses import dataclass
from http import HTTPStatus

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from rest_framework.exceptions import APIException

from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from training.models import Job
from training.services import rows
from training.states import ENDINGS, TERMINAL, EndReason, Phase, Reason, Status


class AlreadyEnded(APIException):
    """There is nothing left to cancel; the answer says how the job ended."""

    status_code = HTTPStatus.CONFLICT
    default_code = "already_ended"

    def __init__(self, job: Job) -> None:
        told = job.error or ENDINGS[Reason(job.reason)].sentence
        super().__init__(f"The job has ended already: {job.status} ({job.reason}). {told}")
        self.hint = f"Run it again with POST /mlops/training/jobs/{job.pk}/rerun."


@dataclass(frozen=True)
class Cancelling:
    """The job as it is now, and what will happen to it, in words."""

    job: Job
    detail: str

    @property
    def final(self) -> bool:
        return self.job.status == Status.CANCELLED


def cancel(job_id: uuid.UUID, *, actor: str) -> Cancelling:
    """Asks for the end; final at once only where nothing runs. Asked twice it is harmless.

    Raises AlreadyEnded, and Job.DoesNotExist.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        if job.status == Status.CANCELLED:
            return Cancelling(job, ENDINGS[Reason.CANCELLED].sentence)
        if job.status in TERMINAL:
            raise AlreadyEnded(job)
        if job.status == Status.QUEUED:
            return _end_at_once(job, actor=actor)
        if job.cancel_requested_at is None:
            _ask(job, actor=actor)
    return Cancelling(job, _what_will_happen(job))


def _end_at_once(job: Job, *, actor: str) -> Cancelling:
    reason = EndReason.of(Reason.CANCELLED, sentence="The job was cancelled while it waited.")
    rows.move(job, Status.CANCELLED)
    job.cancel_requested_at = timezone.now()
    rows.tell_end(job, reason)
    job.save()
    rows.record(job, "cancelled", reason.sentence, actor=actor, reason=reason.reason)
    _write_down(job, "It waited.", actor=actor)
    return Cancelling(job, reason.sentence)


def _ask(job: Job, *, actor: str) -> None:
    job.cancel_requested_at = timezone.now()
    job.revision += 1
    job.save(update_fields=["cancel_requested_at", "revision"])
    rows.record(job, "cancel_requested", actor=actor)
    _write_down(job, f"It was {job.phase}.", actor=actor)
    SUPERVISOR_BELL.ring_on_commit()


def _write_down(job: Job, detail: str, *, actor: str) -> None:
    name = job.script_name
    audit.record(Act.JOB_CANCEL, Kind.JOB, job.pk, name=name, detail=detail, actor=actor)


def _what_will_happen(job: Job) -> str:
    if job.phase == Phase.REGISTERING:
        return "The script has ended; unless its model is registered already, it will not be."
    if job.phase in (Phase.TRAINING, Phase.STOPPING):
        seconds = settings.JOB_GRACE_SECONDS
        return f"The script is asked to end, and killed if it still runs after {seconds} s."
    return "The job is being made ready and will be stopped before its script starts."
