"""The HTTP of jobs: each view reads the request, calls one service, and answers."""

import uuid
from dataclasses import replace

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from training.api import idempotency
from training.api.examples import (
    ACCEPTED_EXAMPLE,
    FAILED_EXAMPLE,
    IN_FLIGHT_EXAMPLE,
    INVALID_EXAMPLE,
    JOB_EXAMPLE,
    NO_JOB_EXAMPLE,
    NO_SPACE_EXAMPLE,
    TOO_MANY_EXAMPLE,
    UPLOAD_EXAMPLE,
    problem_example,
)
from training.api.serializers import (
    CancelSerializer,
    JobAcceptedSerializer,
    JobSerializer,
    UploadFormSerializer,
    UploadSerializer,
    accepted_document,
    job_document,
)
from training.api.submission import UploadLimits, parse_upload
from training.models import Job
from training.services.cancel import cancel
from training.services.submit import Client, submit
from training.states import Status

LOCATION = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, response=[202], description="The path of the job."
)
REPLAYED = OpenApiParameter(
    idempotency.REPLAYED,
    str,
    OpenApiParameter.HEADER,
    response=[202],
    description="`true` when an earlier request with this key made the job.",
)
IDEMPOTENCY_KEY = OpenApiParameter(
    idempotency.HEADER,
    str,
    OpenApiParameter.HEADER,
    description=(
        f"Your own name for this request: 1 to {idempotency.KEY_MAX_CHARACTERS} printable ASCII "
        "characters. With another body it is refused (422), and while the first request is still "
        "being answered too (409)."
    ),
    examples=[
        OpenApiExample(
            "A key", value="churn-2025-10-23", parameter_only=(idempotency.HEADER, "header")
        )
    ],
)


class JobNotFound(NotFound):
    default_code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} not found")


class AnyBodyParser(BaseParser):
    """Leaves the body as it came: `submission` reads JSON, pasted JSON and forms itself."""

    media_type = "*/*"


class UploadView(APIView):
    parser_classes = [AnyBodyParser]
    problem_codes = ("400", "409", "413", "415", "422", "429", "503")

    @extend_schema(
        operation_id="upload_training_script",
        summary="Upload a training script",
        description=(
            "The script runs in a container of its own with the requirements it asks for. "
            "Answers at once; ask for the job to follow it. With an `Idempotency-Key`, the same "
            "request sent again within 24 hours makes no second job: it gets the first answer."
        ),
        tags=["Training"],
        parameters=[IDEMPOTENCY_KEY, LOCATION, REPLAYED],
        request={
            "application/json": UploadSerializer,
            "multipart/form-data": UploadFormSerializer,
        },
        responses={
            202: OpenApiResponse(JobAcceptedSerializer, description="Job queued successfully")
        },
        examples=[
            OpenApiExample(
                "Script",
                value=UPLOAD_EXAMPLE,
                request_only=True,
                media_type="application/json",
            ),
            OpenApiExample(
                "Accepted", value=ACCEPTED_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("A field is wrong", INVALID_EXAMPLE, "400"),
            problem_example("The first one is being answered", IN_FLIGHT_EXAMPLE, "409"),
            problem_example("Too many jobs", TOO_MANY_EXAMPLE, "429"),
            problem_example("No space left", NO_SPACE_EXAMPLE, "503"),
        ],
    )
    def post(self, request: Request) -> Response:
        body, content_type = request._request.body, request.headers.get("Content-Type", "")
        key = idempotency.key_of(request.headers)
        submission = parse_upload(body, content_type, limits=upload_limits())
        client = replace(
            client_of(request),
            idempotency_key=key,
            body_hash=idempotency.hash_of(body, content_type),
        )
        accepted = submit(submission, client=client)
        headers = {"Location": job_path(accepted.job)}
        if submission.warnings:
            headers["Warning"] = ", ".join(f'299 - "{text}"' for text in submission.warnings)
        if accepted.replayed:
            headers[idempotency.REPLAYED] = "true"
        # What the first answer said: the job may have gone on since.
        document = {**accepted_document(accepted.job), "status": Status.QUEUED}
        return Response(document, status=202, headers=headers)


class JobView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="get_training_job",
        summary="Look at a training job",
        description="What the job is doing, and what it has printed so far.",
        tags=["Training"],
        parameters=[
            OpenApiParameter(
                "job_id", str, OpenApiParameter.PATH, description="From the upload's answer."
            )
        ],
        responses={200: OpenApiResponse(JobSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Completed", value=JOB_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "Failed", value=FAILED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Unknown job", NO_JOB_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, job_id: str) -> Response:
        return Response(job_document(_job(job_id)))


class CancelView(APIView):
    @extend_schema(
        operation_id="cancel_training_job",
        summary="Cancel a training job",
        description=(
            "Answers at once with what will happen. The job is `cancelled` when its container is "
            "gone. Asking twice is harmless; a job that has ended answers 409 and says how."
        ),
        tags=["Training"],
        request=None,
        responses={202: CancelSerializer, 200: CancelSerializer},
    )
    def post(self, request: Request, job_id: str) -> Response:
        cancelling = cancel(_job(job_id).pk, actor=client_of(request).owner)
        document = {**accepted_document(cancelling.job), "detail": cancelling.detail}
        return Response(document, status=200 if cancelling.final else 202)


def upload_limits() -> UploadLimits:
    """What the operator allows, from the settings."""
    return UploadLimits(
        script_max_bytes=settings.SCRIPT_MAX_BYTES,
        allow_urls=settings.ALLOW_URL_REQUIREMENTS,
        timeout=settings.JOB_TIMEOUT_SECONDS,
    )


def job_path(job: Job) -> str:
    return f"/mlops/training/jobs/{job.pk}"


def client_of(request: Request) -> Client:
    """Whose job it is: the address that it came from, until the API knows users."""
    return Client(owner=str(request.META.get("REMOTE_ADDR", "")))


def _job(job_id: str) -> Job:
    try:
        # The two long columns are read where they are asked for.
        return Job.objects.defer("script", "environment_lock").get(pk=uuid.UUID(job_id))
    except (ValueError, Job.DoesNotExist):
        raise JobNotFound(job_id) from None
