"""What the platform publishes of its own rules: every reason of an end, and every limit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from django.conf import settings

from training.api import upload_fields
from training.api.requirements_check import MAX_CHARACTERS
from training.limits import JobLimits, job_bounds
from training.models import Attempt, EngineCapacity, Gpu, Job
from training.services.claim import LOCAL_ENGINE, room_left
from training.services.submit import jobs_alive
from training.states import ENDINGS, Ending, Reason


@dataclass(frozen=True)
class Limit:
    """One limit. `default` holds where nothing is asked for, `maximum` is the most there can be.

    None: there is no bound of its own. `used` is None where use cannot be told for all together.
    """

    name: str
    unit: str
    default: float | None
    maximum: float | None
    minimum: float | None = None
    used: float | None = None


@dataclass(frozen=True)
class Limits:
    """Of one job, of one upload, and of the platform as a whole; `waiting_for` is empty while a
    new job would be taken at once. `network` is what jobs may reach: `default` and `maximum`; of
    `python_versions` the first is the default.
    """

    job: tuple[Limit, ...]
    upload: tuple[Limit, ...]
    platform: tuple[Limit, ...]
    waiting_for: str
    network: Mapping[str, str]
    python_versions: tuple[str, ...]


def reasons() -> list[tuple[Reason, Ending]]:
    """Every way in which a job can end, in the order of the table."""
    return list(ENDINGS.items())


def reasons_table() -> str:
    """The same in Markdown."""
    lines = ["| reason | status | fault | again? | what happened |", "|---|---|---|---|---|"]
    for reason, ending in reasons():
        words = " ".join(part for part in (ending.sentence, ending.hint) if part)
        again = "by itself" if ending.retried_by_us else "yes" if ending.retryable else "no"
        lines.append(f"| `{reason}` | {ending.status} | {ending.fault} | {again} | {words} |")
    return "\n".join(lines) + "\n"


def limits_now(*, owner: str) -> Limits:
    """Every limit, and how much of each is used; of caps for each client, by this one."""
    room = room_left()
    example = Job(**asdict(JobLimits.default(job_bounds())))
    return Limits(
        job=job_limits(),
        upload=_upload_limits(),
        platform=_platform_limits(owner),
        network=settings.JOB_NETWORK,
        python_versions=settings.PYTHON_VERSIONS,
        waiting_for=room.why_not(example),
    )


def _fixed(name: str, unit: str, value: float) -> Limit:
    """A limit that nobody can ask to be another one."""
    return Limit(name, unit, default=value, maximum=value)


def _at_most(name: str, unit: str, maximum: float | None, used: float | None = None) -> Limit:
    return Limit(name, unit, default=None, maximum=maximum, used=used)


def job_limits() -> tuple[Limit, ...]:
    """What one job may ask for; two queries."""
    timeout = settings.JOB_TIMEOUT_SECONDS
    return (
        Limit(
            "timeout",
            "seconds",
            default=timeout["default"],
            maximum=timeout["maximum"],
            minimum=timeout["minimum"],
        ),
        *(
            Limit(name, bound.unit, bound.default, bound.maximum, bound.minimum)
            for name, bound in job_bounds().items()
        ),
        _fixed("grace", "seconds", settings.JOB_GRACE_SECONDS),
        _fixed("log_kept", "bytes", settings.JOB_LOG_MAX_BYTES),
        _fixed("log_printed", "bytes", settings.JOB_LOG_HARD_BYTES),
        _fixed("artifacts_mb", "MiB", settings.JOB_ARTIFACTS_MB),
        _fixed("artifact_files", "files", settings.JOB_ARTIFACT_FILES),
        _fixed("attempts", "tries", settings.JOB_MAX_ATTEMPTS),
        _fixed("environment_build", "seconds", settings.ENVIRONMENT_BUILD_SECONDS),
    )


def _upload_limits() -> tuple[Limit, ...]:
    return (
        _at_most("body", "bytes", settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
        _at_most("script", "bytes", settings.SCRIPT_MAX_BYTES),
        _at_most("script_name", "characters", upload_fields.SCRIPT_NAME_MAX),
        _at_most("requirements", "requirements", upload_fields.REQUIREMENTS_MAX),
        _at_most("requirement", "characters", MAX_CHARACTERS),
        _at_most("environment_vars", "variables", upload_fields.VARIABLES_MAX),
        _at_most("environment_vars_size", "bytes", upload_fields.VARIABLES_MAX_BYTES),
        _at_most("tags", "tags", upload_fields.TAGS_MAX),
        _at_most("tag_name", "characters", upload_fields.TAG_NAME_MAX),
        _at_most("tag_value", "characters", upload_fields.TAG_VALUE_MAX),
    )


def _platform_limits(owner: str) -> tuple[Limit, ...]:
    caps, used = settings.JOB_CAPS, jobs_alive(owner=owner, experiment="")
    running = Attempt.objects.filter(finished_at=None).count()
    return (
        _at_most("queue_jobs", "jobs", caps["queue_jobs"], used["queue_jobs"]),
        _at_most("user_jobs", "jobs", caps["user_jobs"], used["user_jobs"]),
        _at_most("experiment_jobs", "jobs", caps["experiment_jobs"]),
        _at_most("running_jobs", "jobs", settings.MAX_CONCURRENT_JOBS or None, running),
        *_engine_limits(),
    )


def _engine_limits() -> tuple[Limit, ...]:
    """Nothing while no engine has been measured."""
    measured = EngineCapacity.objects.filter(engine=LOCAL_ENGINE).first()
    if measured is None:
        return ()
    room = room_left()
    memory = measured.memory_mb - settings.RESERVED_MEMORY_MB
    gpus = Gpu.objects.filter(engine=LOCAL_ENGINE).count()
    away = room.short_of == "engine"
    return (
        _at_most("jobs_memory", "MiB", memory, None if away else memory - room.memory_mb),
        _at_most("jobs_cpus", "CPUs", measured.cpus, None if away else measured.cpus - room.cpus),
        _at_most("jobs_gpus", "GPUs", gpus, None if away else gpus - room.gpus),
    )
