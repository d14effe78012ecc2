"""Moves a job that waits within the queue."""

import uuid
from http import HTTPStatus

from django.db import transaction
from rest_framework.exceptions import APIException

from registry import audit
from registry.audit import Act, Kind
from registry.doorbell import SUPERVISOR_BELL
from training.models import Job
from training.services import rows
from training.states import Priority, Status


class NotWaiting(APIException):
    """A priority says who is taken first, and this job was taken."""

    status_code = HTTPStatus.CONFLICT
    default_code = "not_waiting"

    def __init__(self, job: Job) -> None:
        super().__init__(f"The job does not wait any more: it is {job.status}.")


def set_priority(job_id: uuid.UUID, priority: Priority, *, actor: str) -> Job:
    """The job with its new priority; asked twice it is harmless. Raises NotWaiting, and
    Job.DoesNotExist."""
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        if job.status != Status.QUEUED:
            raise NotWaiting(job)
        before = Priority(job.priority)
        if before != priority:
            job.priority = priority
            job.revision += 1
            job.save(update_fields=["priority", "revision"])
            detail = f"{before.word} to {priority.word}"
            rows.record(job, "priority_changed", detail, actor=actor)
            told = {"name": job.script_name, "detail": detail, "actor": actor}
            audit.record(Act.JOB_PRIORITY, Kind.JOB, job.pk, **told)
            SUPERVISOR_BELL.ring_on_commit()
    return job
