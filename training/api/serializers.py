"""What the API says of jobs: the contract's fields, and the ones that we add beside them."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from rest_framework import serializers

from training import logs
from training.facts import JobFacts, facts_of
from training.limits import JobLimits
from training.models import Attempt, Job
from training.services.claim import Waiting
from training.states import Network, Phase, Priority, Reason, Status

WAITING_FOR = (
    "paused",
    "draining",
    "engine",
    "disk",
    "memory",
    "mlflow",
    "network",
    "cpus",
    "gpus",
    "slots",
    "builders",
    "turn",
    "retry",
)
PRIORITIES = [priority.word for priority in Priority]


def utc(moment: datetime | None) -> str | None:
    """`2025-10-23T10:00:00Z`: UTC, whole seconds, as the contract prints it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class LimitFieldsSerializer(serializers.Serializer):
    """What a job may use; `GET /mlops/training/limits` has each with default and maximum."""

    memory_mb = serializers.IntegerField(
        required=False, help_text="MiB of memory, `/scratch` and swap included."
    )
    cpus = serializers.FloatField(required=False, help_text="CPUs; parts of one count too.")
    pids = serializers.IntegerField(required=False, help_text="Processes and threads.")
    scratch_mb = serializers.IntegerField(required=False, help_text="MiB of `/scratch`.")
    gpus = serializers.IntegerField(
        required=False, help_text="GPUs, which no other job has meanwhile."
    )


class UploadSerializer(LimitFieldsSerializer):
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
    priority = serializers.ChoiceField(
        choices=PRIORITIES,
        required=False,
        default=Priority.NORMAL.word,
        help_text="Which jobs are taken first; within one priority users take turns.",
    )
    network = serializers.ChoiceField(
        choices=Network.choices,
        required=False,
        default=settings.JOB_NETWORK["default"],
        help_text=(
            "What the script may reach beside MLflow: `internet` (no private address), or `none`."
        ),
    )
    python_version = serializers.CharField(
        required=False,
        help_text=(
            "The Python of the script and its packages, such as `3.11`: one of those that "
            "GET /mlops/training/limits lists; the first of them where nothing is asked for."
        ),
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


class EditsSerializer(LimitFieldsSerializer):
    """Documents what a rerun may change; `submission.parse_edits` reads it."""

    requirements = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="In place of those of the job."
    )
    environment_vars = serializers.DictField(
        child=serializers.CharField(allow_null=True),
        required=False,
        help_text="These are set, null removes one, all others stay as they were.",
    )
    timeout = serializers.IntegerField(
        required=False,
        min_value=settings.JOB_TIMEOUT_SECONDS["minimum"],
        max_value=settings.JOB_TIMEOUT_SECONDS["maximum"],
        help_text="How many seconds the script may run.",
    )
    tags = serializers.DictField(
        child=serializers.CharField(allow_null=True),
        required=False,
        help_text="These are set, null removes one, all others stay as they were.",
    )
    network = serializers.ChoiceField(
        choices=Network.choices, required=False, help_text="What the script may reach."
    )
    python_version = serializers.CharField(
        required=False, help_text="One of those that GET /mlops/training/limits lists."
    )


class RerunSerializer(JobAcceptedSerializer):
    """What a rerun answers: a job of its own."""

    rerun_of = serializers.CharField(help_text="The job that runs again.")


class CancelSerializer(JobAcceptedSerializer):
    """What a cancel answers."""

    status = serializers.ChoiceField(
        choices=Status.choices, help_text="As it is now; `cancelled` when nothing runs any more."
    )
    detail = serializers.CharField(help_text="What will happen, in words.")


class AttemptSerializer(serializers.Serializer):
    """One try to run a job."""

    number = serializers.IntegerField(help_text="From 1 on.")
    started_at = serializers.DateTimeField(help_text="When work on it began, UTC.")
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When it was over, UTC.")
    reason = serializers.ChoiceField(
        choices=Reason.choices, allow_null=True, help_text="Why it ended."
    )
    exit_code = serializers.IntegerField(
        allow_null=True, help_text="Of the container; null when it never ended by itself."
    )


class UsageSerializer(serializers.Serializer):
    """What a job has used so far, over all attempts."""

    peak_memory_bytes = serializers.IntegerField(
        help_text="The most memory that was seen; 0 when nothing was measured."
    )
    cpu_seconds = serializers.FloatField(help_text="CPU time of the container.")
    phase_seconds = serializers.DictField(
        child=serializers.FloatField(), help_text="How long the job was in each phase that is over."
    )
    log_bytes = serializers.IntegerField(help_text="What it printed, kept or not.")


class JobRowSerializer(JobAcceptedSerializer):
    """A job as it is now, without its output."""

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
    owner = serializers.CharField(help_text="Who sent it.")
    priority = serializers.ChoiceField(choices=PRIORITIES, help_text="As asked for.")
    position = serializers.IntegerField(
        allow_null=True,
        help_text="Place in the queue, 1 for the first; an estimate, since users take turns.",
    )
    waiting_for = serializers.ChoiceField(
        choices=WAITING_FOR,
        allow_null=True,
        help_text=(
            "Why a queued job is not taken: somebody paused admission or drains the engine, the "
            "engine is away, disk, memory or MLflow is short, "
            "the firewall does not hold what jobs may reach (`network`), no CPUs, GPUs or "
            "slots are free, all builders are busy, others have their turn, or it is tried again "
            "later. Null: it is being taken."
        ),
    )
    requirements = serializers.ListField(child=serializers.CharField(), help_text="As asked for.")
    timeout = serializers.IntegerField(help_text="How many seconds the script may run.")
    tags = serializers.DictField(child=serializers.CharField(), help_text="As asked for.")
    network = serializers.ChoiceField(
        choices=Network.choices, help_text="What the script may reach beside MLflow."
    )
    memory_mb = serializers.IntegerField(help_text="MiB of memory that it may use.")
    cpus = serializers.FloatField(help_text="CPUs that it may use.")
    pids = serializers.IntegerField(help_text="Processes and threads that it may have.")
    scratch_mb = serializers.IntegerField(help_text="MiB of its `/scratch`.")
    gpus = serializers.IntegerField(help_text="GPUs that it has to itself while it runs.")
    python_version = serializers.CharField(
        allow_null=True, help_text="Null for jobs of before there was a choice."
    )
    rerun_of = serializers.CharField(allow_null=True, help_text="The job that this one runs again.")
    reruns = serializers.ListField(
        child=serializers.CharField(), help_text="The jobs that run this one again."
    )
    attempts = AttemptSerializer(many=True, help_text="Every try so far.")
    usage = UsageSerializer(help_text="What the job has used so far.")


class JobSerializer(JobRowSerializer):
    """A job as it is now."""

    logs = serializers.CharField(help_text="Everything printed so far.")


def accepted_document(job: Job) -> dict[str, Any]:
    return {
        "job_id": str(job.pk),
        "script_name": job.script_name,
        "experiment_name": job.experiment_name,
        "model_name": job.model_name,
        "status": job.status,
        "created_at": utc(job.created_at),
    }


def job_document(job: Job, *, waiting: Waiting | None = None) -> dict[str, Any]:
    """Everything that is told about a job, its output included; `waiting` if it is known already.

    A job that was taken after somebody looked where it stands does not wait any more.
    """
    known = {job.pk: waiting} if waiting and job.status == Status.QUEUED else None
    facts = facts_of([job], waiting=known)
    return {**row_document(job, facts[job.pk]), "logs": logs.text_of(job)}


def row_document(job: Job, facts: JobFacts) -> dict[str, Any]:
    """A job as a list tells it: without its output."""
    waiting = facts.waiting
    return {
        **accepted_document(job),
        "phase": job.phase,
        "attempt": len(facts.attempts) or None,
        "run_id": job.run_id or None,
        "model_version": job.model_version or None,
        "error": job.error or None,
        "reason": job.reason or None,
        "hint": job.hint or None,
        "started_at": utc(job.started_at),
        "completed_at": utc(job.completed_at),
        "duration_seconds": job.duration_seconds,
        "owner": job.owner,
        "priority": Priority(job.priority).word,
        "position": waiting.position if waiting else None,
        "waiting_for": (waiting.waiting_for or None) if waiting else None,
        "requirements": job.requirements,
        "timeout": job.timeout_seconds,
        "tags": job.tags,
        "network": job.network,
        **asdict(JobLimits.of(job)),
        "python_version": job.python_version or None,
        "rerun_of": str(job.rerun_of_id) if job.rerun_of_id else None,
        "reruns": [str(job_id) for job_id in facts.reruns],
        "attempts": [_attempt_document(attempt) for attempt in facts.attempts],
        "usage": {
            "peak_memory_bytes": facts.peak_memory_bytes,
            "cpu_seconds": facts.cpu_seconds,
            "phase_seconds": dict(facts.phase_seconds),
            "log_bytes": facts.log_bytes,
        },
    }


def _attempt_document(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": utc(attempt.created_at),
        "ended_at": utc(attempt.finished_at),
        "reason": attempt.reason or None,
        "exit_code": attempt.exit_code,
    }
