"""The HTTP of jobs: each view reads the request, calls one service, and answers."""

from dataclasses import replace

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from training.api import follow, idempotency
from training.api.client import AnyBodyParser, client_of, job_of, job_path, upload_limits
from training.api.examples import (
    ACCEPTED_EXAMPLE,
    CANCELLED_EXAMPLE,
    CANCELLING_EXAMPLE,
    EDITS_EXAMPLE,
    FAILED_EXAMPLE,
    IN_FLIGHT_EXAMPLE,
    INVALID_EXAMPLE,
    JOB_EXAMPLE,
    LOCK_EXAMPLE,
    NO_JOB_EXAMPLE,
    NO_LOCK_EXAMPLE,
    NO_SPACE_EXAMPLE,
    PYLOCK_EXAMPLE,
    RERUN_EXAMPLE,
    TOO_MANY_EXAMPLE,
    UPLOAD_EXAMPLE,
)
from training.api.serializers import (
    CancelSerializer,
    EditsSerializer,
    JobAcceptedSerializer,
    JobSerializer,
    RerunSerializer,
    UploadFormSerializer,
    UploadSerializer,
    accepted_document,
)
from training.api.submission import parse_edits, parse_upload
from training.models import Job
from training.services.cancel import cancel
from training.services.environments import pylock_of
from training.services.submit import Accepted, Client, rerun, submit
from training.states import TERMINAL, Status

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
        client = _client_with_key(request, asked="upload")
        submission = parse_upload(body, content_type, limits=upload_limits())
        answer = _accepted(submit(submission, client=client))
        if submission.warnings:
            answer["Warning"] = ", ".join(f'299 - "{text}"' for text in submission.warnings)
        return answer


class JobView(APIView):
    problem_codes = ("400", "404", "503")

    @extend_schema(
        operation_id="get_training_job",
        summary="Look at a training job",
        description="What the job is doing, and what it has printed so far.",
        tags=["Training"],
        parameters=follow.JOB_PARAMETERS,
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
    def get(self, request: Request, job_id: str) -> HttpResponse:
        return follow.job_response(request._request, job_id)


class CancelView(APIView):
    problem_codes = ("404", "409")

    @extend_schema(
        operation_id="cancel_training_job",
        summary="Cancel a training job",
        description=(
            "Answers at once with what will happen. The job is `cancelled` when its container is "
            "gone. Asking twice is harmless; a job that has ended answers 409 and says how."
        ),
        tags=["Training"],
        parameters=[follow.JOB_ID],
        request=None,
        responses={
            200: OpenApiResponse(CancelSerializer, description="The job is cancelled"),
            202: OpenApiResponse(CancelSerializer, description="The job is being stopped"),
        },
        examples=[
            OpenApiExample(
                "It waited", value=CANCELLED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "It runs", value=CANCELLING_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("Unknown job", NO_JOB_EXAMPLE, "404"),
        ],
    )
    def post(self, request: Request, job_id: str) -> Response:
        cancelling = cancel(job_of(job_id).pk, actor=client_of(request).owner)
        document = {**accepted_document(cancelling.job), "detail": cancelling.detail}
        return Response(document, status=200 if cancelling.final else 202)


class RerunView(APIView):
    parser_classes = [AnyBodyParser]
    problem_codes = ("400", "404", "409", "413", "415", "422", "429", "503")

    @extend_schema(
        operation_id="rerun_training_job",
        summary="Run a training job again",
        description=(
            "The same script once more, as a job of its own; in whatever state the first one is. "
            "The body may be empty, or a JSON merge patch (RFC 7396) of variables, requirements, "
            "timeout and tags, checked as an upload is. With an `Idempotency-Key`, the same "
            "request for the same job sent again within 24 hours makes no second one."
        ),
        tags=["Training"],
        parameters=[follow.JOB_ID, IDEMPOTENCY_KEY, LOCATION, REPLAYED],
        request=EditsSerializer,
        responses={202: OpenApiResponse(RerunSerializer, description="Job queued successfully")},
        examples=[
            OpenApiExample("Edits", value=EDITS_EXAMPLE, request_only=True),
            OpenApiExample(
                "Accepted", value=RERUN_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("A field is wrong", INVALID_EXAMPLE, "400"),
            problem_example("Unknown job", NO_JOB_EXAMPLE, "404"),
            problem_example("The first one is being answered", IN_FLIGHT_EXAMPLE, "409"),
            problem_example("Too many jobs", TOO_MANY_EXAMPLE, "429"),
            problem_example("No space left", NO_SPACE_EXAMPLE, "503"),
        ],
    )
    def post(self, request: Request, job_id: str) -> Response:
        first = job_of(job_id)
        client = _client_with_key(request, asked=f"rerun {first.pk}")
        edits = parse_edits(
            request._request.body,
            request.headers.get("Content-Type", ""),
            variables=first.environment,
            tags=first.tags,
            limits=upload_limits(),
        )
        return _accepted(rerun(first, edits, client=client), rerun_of=str(first.pk))


class ScriptView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="download_training_script",
        summary="Download a job's script",
        description="Byte for byte as it was uploaded.",
        tags=["Training"],
        parameters=[follow.JOB_ID],
        responses={(200, "text/x-python"): OpenApiTypes.STR},
        examples=[
            OpenApiExample(
                "Script",
                value="import mlflow\n",
                response_only=True,
                status_codes=["200"],
                media_type="text/x-python",
            ),
            problem_example("Unknown job", NO_JOB_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        job = job_of(job_id)
        return _attachment(job.script, name=job.script_name, content_type="text/x-python")


class EnvironmentView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="download_environment_lock",
        summary="Download what was installed for a job",
        description=(
            "Every package with its exact version and the SHA-256 of its wheels, as a requirements "
            "file for `pip install --require-hashes -r`. 404 until the job's requirements are "
            "resolved."
        ),
        tags=["Training"],
        parameters=[follow.JOB_ID],
        responses={(200, "text/plain"): OpenApiTypes.STR},
        examples=[
            OpenApiExample(
                "Lock",
                value=LOCK_EXAMPLE,
                response_only=True,
                status_codes=["200"],
                media_type="text/plain",
            ),
            problem_example("Not resolved yet", NO_LOCK_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        job = job_of(job_id)
        if not job.environment_lock:
            raise NoLock(job)
        return _attachment(job.environment_lock, name="requirements.txt", content_type="text/plain")


class PylockView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="download_environment_pylock",
        summary="Download what was installed for a job as pylock.toml",
        description=(
            "The same lock as a `pylock.toml` (PEP 751), with the address of every wheel. 404 "
            "until the job's requirements are resolved."
        ),
        tags=["Training"],
        parameters=[follow.JOB_ID],
        responses={(200, "application/toml"): OpenApiTypes.STR},
        examples=[
            OpenApiExample(
                "Lock",
                value=PYLOCK_EXAMPLE,
                response_only=True,
                status_codes=["200"],
                media_type="application/toml",
            ),
            problem_example("Not resolved yet", NO_LOCK_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        job = job_of(job_id)
        pylock = pylock_of(job.environment_key) if job.environment_key else ""
        if not pylock:
            raise NoLock(job)
        return _attachment(pylock, name="pylock.toml", content_type="application/toml")


class NoLock(NotFound):
    """Nothing was resolved for the job, or not yet."""

    default_code = "environment_not_resolved"

    def __init__(self, job: Job) -> None:
        ended = job.status in TERMINAL
        super().__init__(
            "The job ended before its requirements were resolved."
            if ended
            else "The job's requirements are not resolved yet."
        )
        self.hint = "Its `error` says why." if ended else "Ask again when the job is starting."


def _client_with_key(request: Request, *, asked: str) -> Client:
    """Who sends it, and their name for this very request. Raises BadIdempotencyKey."""
    body, content_type = request._request.body, request.headers.get("Content-Type", "")
    return replace(
        client_of(request),
        idempotency_key=idempotency.key_of(request.headers),
        body_hash=idempotency.hash_of(body, content_type, asked=asked),
    )


def _accepted(accepted: Accepted, **told: str) -> Response:
    """What the first answer said, also when it is given again: the job may have gone on since."""
    headers = {"Location": job_path(accepted.job)}
    if accepted.replayed:
        headers[idempotency.REPLAYED] = "true"
    document = {**accepted_document(accepted.job), "status": Status.QUEUED, **told}
    return Response(document, status=202, headers=headers)


def _attachment(text: str, *, name: str, content_type: str) -> HttpResponse:
    """As a file: a browser saves it and never takes it for a page."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }
    return HttpResponse(
        text.encode(), content_type=f"{content_type}; charset=utf-8", headers=headers
    )
