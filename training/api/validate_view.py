"""`POST /mlops/training/validate`: what would become of an upload, without making a job."""

from dataclasses import asdict
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from sandbox.image.lock_file import pins_in
from training.api.client import AnyBodyParser, client_of, upload_limits
from training.api.examples import INVALID_EXAMPLE, UPLOAD_EXAMPLE
from training.api.serializers import WAITING_FOR, UploadFormSerializer, UploadSerializer
from training.api.submission import parse_upload
from training.limits import JobLimits
from training.models import Job, Resolution
from training.script_check import TooBusy
from training.services.validate import Finding, Severity, Validation, validate
from training.states import Network

NOT_ASKED = "not_asked"
RESOLUTION_STATUSES = (*Resolution.Status.values, NOT_ASKED)


class FindingSerializer(serializers.Serializer):
    """One thing that is wrong, or may be."""

    severity = serializers.ChoiceField(
        choices=list(Severity), help_text="`error`: the job would fail for it."
    )
    code = serializers.CharField(
        help_text="For programs; the `reason` that the job would end with where there is one."
    )
    field = serializers.CharField(allow_null=True, help_text="The field of the upload.")
    line = serializers.IntegerField(allow_null=True, help_text="Of the script, from 1 on.")
    column = serializers.IntegerField(allow_null=True, help_text="In that line, from 1 on.")
    detail = serializers.CharField(help_text="What is wrong.")
    hint = serializers.CharField(help_text="How to mend it.")


class ResolutionSerializer(serializers.Serializer):
    """What the requirements would install."""

    status = serializers.ChoiceField(
        choices=RESOLUTION_STATUSES,
        help_text=(
            "`resolving`: ask again in a few seconds. `not_asked`: too many others are waiting."
        ),
    )
    packages = serializers.ListField(
        child=serializers.CharField(), help_text="Every package with its exact version."
    )
    installed = serializers.BooleanField(
        help_text="The environment is there already: the job would start without installing."
    )
    reason = serializers.CharField(allow_null=True, help_text="Why it failed, as jobs name it.")
    detail = serializers.CharField(allow_null=True, help_text="The same in words.")
    hint = serializers.CharField(allow_null=True, help_text="What to do about it.")


class JobLimitsSerializer(serializers.Serializer):
    """The limits that the job would have."""

    timeout_seconds = serializers.IntegerField(help_text="How long the script may run.")
    memory_mb = serializers.IntegerField(help_text="Its memory, scratch included.")
    cpus = serializers.FloatField(help_text="Its CPUs.")
    pids = serializers.IntegerField(help_text="Its processes and threads.")
    scratch_mb = serializers.IntegerField(help_text="The size of its `/scratch`.")
    gpus = serializers.IntegerField(help_text="The GPUs that it would have to itself.")
    network = serializers.ChoiceField(
        choices=Network.choices, help_text="What it may reach beside MLflow."
    )
    python_version = serializers.CharField(help_text="Its Python.")
    attempts = serializers.IntegerField(help_text="How often it is tried when we fail.")


class QueueSerializer(serializers.Serializer):
    """Where the job would stand."""

    position = serializers.IntegerField(help_text="1 for the first.")
    waiting_for = serializers.ChoiceField(
        choices=WAITING_FOR, allow_null=True, help_text="What it would wait for; null: nothing."
    )


class ValidationSerializer(serializers.Serializer):
    """What would become of an upload."""

    valid = serializers.BooleanField(help_text="No finding is an error.")
    findings = FindingSerializer(many=True, help_text="Errors and warnings.")
    requirements = ResolutionSerializer(help_text="What would be installed.")
    limits = JobLimitsSerializer(help_text="The limits that the job would have.")
    queue = QueueSerializer(help_text="Where the job would stand.")


VALID_EXAMPLE = {
    "valid": True,
    "findings": [],
    "requirements": {
        "status": "resolved",
        "packages": ["mlflow-skinny==3.13.0", "pandas==2.2.3", "scikit-learn==1.5.2"],
        "installed": True,
        "reason": None,
        "detail": None,
        "hint": None,
    },
    "limits": {
        "timeout_seconds": 300,
        "memory_mb": 2048,
        "cpus": 1.0,
        "pids": 256,
        "scratch_mb": 1024,
        "gpus": 0,
        "network": "internet",
        "python_version": "3.11",
        "attempts": 3,
    },
    "queue": {"position": 1, "waiting_for": None},
}
FAULTY_EXAMPLE = {
    **VALID_EXAMPLE,
    "valid": False,
    "findings": [
        {
            "severity": "error",
            "code": "syntax_error",
            "field": "script_content",
            "line": 3,
            "column": 11,
            "detail": "SyntaxError: invalid syntax",
            "hint": "Look at: def train(:",
        }
    ],
}
BUSY_EXAMPLE = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": TooBusy.default_detail,
    "instance": "/mlops/training/validate",
    "code": TooBusy.default_code,
    "hint": TooBusy.hint,
}


class ValidateView(APIView):
    parser_classes = [AnyBodyParser]
    problem_codes = ("400", "413", "415", "503")

    @extend_schema(
        operation_id="validate_training_script",
        summary="Check an upload without running it",
        description=(
            "Takes what an upload takes, and makes no job: is the script Python, do its imports "
            "have a requirement, does it log a model, what would be installed, and how long is the "
            "queue. Mistakes in the script are an answer (200, `valid: false`), mistakes in the "
            "request a problem, as at an upload. Requirements that nobody asked for before are "
            "resolved within seconds; `resolving` means: ask again."
        ),
        tags=["Training"],
        request={
            "application/json": UploadSerializer,
            "multipart/form-data": UploadFormSerializer,
        },
        responses={200: OpenApiResponse(ValidationSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Script", value=UPLOAD_EXAMPLE, request_only=True, media_type="application/json"
            ),
            OpenApiExample("Valid", value=VALID_EXAMPLE, response_only=True, status_codes=["200"]),
            OpenApiExample(
                "A mistake", value=FAULTY_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("A field is wrong", INVALID_EXAMPLE, "400"),
            problem_example("Too busy", BUSY_EXAMPLE, "503"),
        ],
    )
    def post(self, request: Request) -> Response:
        submission = parse_upload(
            request._request.body, request.headers.get("Content-Type", ""), limits=upload_limits()
        )
        validation = validate(submission, owner=client_of(request).owner)
        return Response(_document(validation))


def _document(validation: Validation) -> dict[str, Any]:
    waiting = validation.waiting
    return {
        "valid": validation.valid,
        "findings": [_finding_document(finding) for finding in validation.findings],
        "requirements": _resolution_document(validation.resolution),
        "limits": _limits_document(validation.job),
        "queue": {"position": waiting.position, "waiting_for": waiting.waiting_for or None},
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "severity": str(finding.severity),
        "code": str(finding.code),
        "field": finding.field,
        "line": finding.line,
        "column": finding.column,
        "detail": finding.detail,
        "hint": finding.hint,
    }


def _resolution_document(resolution: Resolution | None) -> dict[str, Any]:
    found = resolution or Resolution(status=NOT_ASKED)
    return {
        "status": str(found.status),
        "packages": pins_in(found.lock) if found.status == Resolution.Status.RESOLVED else [],
        "installed": found.status == Resolution.Status.RESOLVED and found.installed,
        "reason": found.reason or None,
        "detail": found.detail or None,
        "hint": found.hint or None,
    }


def _limits_document(job: Job) -> dict[str, Any]:
    return {
        "timeout_seconds": job.timeout_seconds,
        **asdict(JobLimits.of(job)),
        "network": str(job.network),
        "python_version": job.python_version,
        "attempts": settings.JOB_MAX_ATTEMPTS,
    }
