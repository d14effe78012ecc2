"""`GET /mlops/training/jobs/{id}/sandbox`: what the engine said of a job's containers."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from training.api import follow
from training.api.client import job_of
from training.api.examples import NO_JOB_EXAMPLE
from training.models import Attempt


class AttemptSandboxSerializer(serializers.Serializer):
    """The container of one try."""

    attempt = serializers.IntegerField(help_text="From 1 on.")
    readback = serializers.JSONField(
        allow_null=True,
        help_text=(
            "Every field that locks it down, in the words of `docker inspect`, as it was read "
            "back before the script began. Null: the try has no container, or none yet."
        ),
    )


class SandboxSerializer(serializers.Serializer):
    """What a job's containers were."""

    job_id = serializers.CharField(help_text="Of the job.")
    attempts = AttemptSandboxSerializer(many=True, help_text="Every try so far.")


SANDBOX_EXAMPLE = {
    "job_id": "550e8400-e29b-41d4-a716-446655440000",
    "attempts": [
        {
            "attempt": 1,
            "readback": {
                "User": "runner",
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges", "seccomp=ours:e277c6b65b00"],
                "ReadonlyRootfs": True,
                "Memory": 2147483648,
                "MemorySwap": 2147483648,
                "PidsLimit": 256,
                "NetworkMode": "mlops-1a2b3c-jobs",
                "Mounts": [{"target": "/job", "read_only": True}],
            },
        }
    ],
}


class SandboxView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="get_training_job_sandbox",
        summary="See how a job was locked down",
        description=(
            "What the container engine itself said of the job's container: rights, limits, mounts, "
            "network. It is compared with what was asked for, and a container with any difference "
            "is never started."
        ),
        tags=["Training"],
        parameters=[follow.JOB_ID],
        responses={200: OpenApiResponse(SandboxSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "One try", value=SANDBOX_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Unknown job", NO_JOB_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, job_id: str) -> Response:
        job = job_of(job_id)
        attempts = [_attempt_document(attempt) for attempt in job.attempts.all()]
        return Response({"job_id": str(job.pk), "attempts": attempts})


def _attempt_document(attempt: Attempt) -> dict[str, Any]:
    return {"attempt": attempt.number, "readback": attempt.readback or None}
