"""What the API says of jobs: the contract's fields, and the ones that we add beside them."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from rest_framework import serializers

from training import logs
from training.models import Job
from training.states import Phase, Reason, Status


def utc(moment: datetime | None) -> str | None:
    """`2025-10-23T10:00:00Z`: UTC, whole seconds, as the contract prints it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class UploadSerializer(serializers.Serializer):
    """Documents the request; `submission.parse_upload` reads it, and names what is wrong."""

    script_name = serializers.CharField(
        help_text="A plain file name that ends in `.py`, at most 100 characters."
    )
    script_content = serializers.CharField(
        help_text="The script itself, as text or in base64 (see `script_encoding`)."
    )
    script_encoding = serializers.ChoiceField(
        choices=["plain", "base64"],
        required=False,
        help_text="How `script_content` is written. Without it, base64 is recognised.",
    )
    experiment_name = serializers.CharField(
        required=False,
        help_text="The MLflow experiment of the run. Default: the script's name without `.py`.",
    )
    model_name = serializers.CharField(
        required=False,
        help_text="What the model is registered as. Default: the script's name without `.py`.",
    )
    requirements = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="What to install: PEP 508 requirements, such as `scikit-learn==1.5.2`.",
    )
    environment_vars = serializers.DictField(
        child=serializers.CharField(),
        required=False,
        help_text="Environment variables of the script; `MLFLOW_*` is the platform's.",
    )
    timeout = serializers.IntegerField(
        required=False,
        min_value=settings.JOB_TIMEOUT_SECONDS["minimum"],
        max_value=settings.JOB_TIMEOUT_SECONDS["maximum"],
        default=settings.JOB_TIMEOUT_SECONDS["default"],
        help_text="How many seconds the script may run.",
    )
    tags = serializers.DictField(
        child=serializers.CharField(),
        required=False,
        help_text="Kept on the run and on the model version.",
    )


class UploadFormSerializer(UploadSerializer):
    """The same as `multipart/form-data`: `curl -F script=@train.py …`."""

    script = serializers.FileField(help_text="The script as a file.")
    script_name = serializers.CharField(
        required=False, help_text="Default: the name of the file that is sent."
    )
    script_content = None  # type: ignore[assignment]
    script_encoding = None  # type: ignore[assignment]


class JobAcceptedSerializer(serializers.Serializer):
    """What an upload answers."""

    job_id = serializers.CharField(help_text="Ask for the job with it.")
    script_name = serializers.CharField(help_text="As uploaded.")
    experiment_name = serializers.CharField(help_text="As asked for, or the default.")
    model_name = serializers.CharField(help_text="As asked for, or the default.")
    status = serializers.ChoiceField(choices=Status.choices, help_text="`queued`.")
    created_at = serializers.DateTimeField(help_text="When the job was accepted, UTC.")


class CancelSerializer(JobAcceptedSerializer):
    """What a cancel answers."""

    status = serializers.ChoiceField(
        choices=Status.choices, help_text="As it is now; `cancelled` when nothing runs any more."
    )
    detail = serializers.CharField(help_text="What will happen, in words.")


class JobSerializer(JobAcceptedSerializer):
    """A job as it is now."""

    status = serializers.ChoiceField(
        choices=Status.choices,
        help_text="`queued`, `running`, `completed`, `failed` or `cancelled`.",
    )
    phase = serializers.ChoiceField(
        choices=Phase.choices, help_text="What the job is doing inside its status."
    )
    attempt = serializers.IntegerField(
        allow_null=True, help_text="Which try this is; null while the first one waits."
    )
    run_id = serializers.CharField(
        allow_null=True, help_text="The MLflow run; null when there is none."
    )
    model_version = serializers.CharField(
        allow_null=True, help_text="The version that the model was registered as; null until then."
    )
    logs = serializers.CharField(help_text="Everything printed so far.")
    error = serializers.CharField(allow_null=True, help_text="Why the job failed, in one sentence.")
    reason = serializers.ChoiceField(
        choices=Reason.choices,
        allow_null=True,
        help_text="Why the job ended, for programs.",
    )
    hint = serializers.CharField(allow_null=True, help_text="What to do about a failure.")
    started_at = serializers.DateTimeField(
        allow_null=True, help_text="When work on it began, UTC; installing requirements counts."
    )
    completed_at = serializers.DateTimeField(
        allow_null=True, help_text="When it completed or failed, UTC."
    )
    duration_seconds = serializers.FloatField(
        allow_null=True, help_text="From `started_at` to `completed_at`."
    )


def accepted_document(job: Job) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "script_name": job.script_name,
        "experiment_name": job.experiment_name,
        "model_name": job.model_name,
        "status": job.status,
        "created_at": utc(job.created_at),
    }


def job_document(job: Job) -> dict[str, Any]:
    return {
        **accepted_document(job),
        "phase": job.phase,
        "attempt": job.attempts.count() or None,
        "run_id": job.run_id or None,
        "model_version": job.model_version or None,
        "logs": logs.text_of(job),
        "error": job.error or None,
        "reason": job.reason or None,
        "hint": job.hint or None,
        "started_at": utc(job.started_at),
        "completed_at": utc(job.completed_at),
        "duration_seconds": job.duration_seconds,
    }
