"""Whose request it is, and what the operator allows: what every view of jobs asks first."""

import uuid

from django.conf import settings
from rest_framework.exceptions import NotFound
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from training.api.upload_fields import UploadLimits
from training.limits import job_bounds
from training.models import Job
from training.services.submit import Client


class JobNotFound(NotFound):
    default_code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} not found")


class AnyBodyParser(BaseParser):
    """Leaves the body as it came: `submission` reads JSON, pasted JSON and forms itself."""

    media_type = "*/*"


def client_of(request: Request) -> Client:
    """Whose job it is: the address that it came from, until the API knows users."""
    return Client(owner=str(request.META.get("REMOTE_ADDR", "")))


def job_of(job_id: str) -> Job:
    """Without its two long columns, which are read where they are asked for. Raises JobNotFound."""
    try:
        return Job.objects.defer("script", "environment_lock").get(pk=uuid.UUID(job_id))
    except (ValueError, Job.DoesNotExist):
        raise JobNotFound(job_id) from None


def job_path(job: Job) -> str:
    return f"/mlops/training/jobs/{job.pk}"


def upload_limits() -> UploadLimits:
    """What the operator allows, from the settings."""
    return UploadLimits(
        script_max_bytes=settings.SCRIPT_MAX_BYTES,
        allow_urls=settings.ALLOW_URL_REQUIREMENTS,
        timeout=settings.JOB_TIMEOUT_SECONDS,
        network=settings.JOB_NETWORK,
        job=job_bounds(),
        packages=settings.BUILD_RULES,
        pythons=settings.PYTHON_VERSIONS,
    )
