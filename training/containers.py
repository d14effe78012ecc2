"""From an attempt to its container: the folder with the script, the variables, the spec."""

import json
import shutil
from pathlib import Path

from django.conf import settings

from registry import job_users
from sandbox.container import Limits, SandboxSpec
from sandbox.environments import Environment
from sandbox.spec import job_spec, waiting_spec
from training.limits import JobLimits
from training.models import Attempt, Job
from training.network_policy import docker_network, proxy_variables, resolvers
from training.services import gpus
from training.states import Network

MLFLOW_RETRIES = 3
MLFLOW_REQUEST_SECONDS = 20


def attempt_tag(attempt: Attempt) -> str:
    """What MLflow's runs and models of this attempt, and of no other, are tagged with."""
    return job_users.attempt_tag(attempt.job_id, attempt.number)


def job_labels(attempt: Attempt) -> dict[str, str]:
    return {"mlops.installation": settings.INSTALLATION_ID, "mlops.attempt": str(attempt.pk)}


def user_prefix() -> str:
    """What the names of all our MLflow users begin with; another installation has its own."""
    return job_users.user_prefix(settings.INSTALLATION_ID)


def user_name(attempt: Attempt) -> str:
    """A new name for the attempt's MLflow user."""
    return job_users.new_user_name(settings.INSTALLATION_ID, attempt.job_id, attempt.number)


def script_folder(attempt: Attempt) -> Path:
    return Path(settings.JOBS_DIR) / f"attempt-{attempt.pk}"


def write_script(attempt: Attempt) -> Path:
    """Readable by the container's user; its parent folder is not open to other accounts."""
    folder = script_folder(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    put_script(attempt, folder)
    folder.chmod(0o755)
    return folder


def put_script(attempt: Attempt, folder: Path) -> None:
    """Readable by the container's user."""
    script = folder / attempt.job.script_name
    script.write_bytes(attempt.job.script.encode())
    script.chmod(0o644)


def remove_script(attempt: Attempt) -> None:
    shutil.rmtree(script_folder(attempt), ignore_errors=True)


def waiting_folder(waiting_id: int) -> Path:
    """Where a waiting container will find its script."""
    return Path(settings.JOBS_DIR) / f"waiting-{waiting_id}"


def make_waiting_folder(waiting_id: int) -> None:
    """Empty; what was left of an earlier one of that name goes."""
    folder = waiting_folder(waiting_id)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)


def limits_of(job: Job) -> Limits:
    """The ones that the job was accepted with."""
    return _sandbox_limits(JobLimits.of(job))


def fits_waiting(job: Job) -> bool:
    """Whether a container that was made for the usual limits can become this job's.

    With less memory or fewer processes than that, the imports would be the difference; they have
    read how many threads they may have; and neither scratch nor GPUs can be changed later.
    """
    usual = _usual_limits()
    return (
        job.network == Network.INTERNET
        and job.memory_mb >= usual.memory_mb
        and job.pids >= usual.pids
        and job.scratch_mb == usual.scratch_mb
        and job.gpus == 0
        and _threads(job.cpus) == _threads(usual.cpus)
    )


def waiting_spec_of(
    waiting_id: int, *, environment: Environment, platform_folder: Path
) -> SandboxSpec:
    """The sandbox of a job with the usual limits, before there is one: it knows nothing of it."""
    return waiting_spec(
        name=f"mlops-{settings.INSTALLATION_ID}-waiting-{waiting_id}",
        image=environment.image or settings.RUNNER_IMAGE,
        script_folder=waiting_folder(waiting_id),
        environment_folder=environment.path,
        platform_folder=platform_folder,
        data_folder=settings.DATA_DIR,
        variables=_known_variables(cpus=settings.JOB_CPUS, network=Network.INTERNET),
        network=docker_network(Network.INTERNET),
        resolvers=resolvers(Network.INTERNET),
        limits=_usual_limits(),
        runtime=settings.SANDBOX_RUNTIME,
        seconds_max=settings.JOB_TIMEOUT_SECONDS["maximum"] + settings.JOB_GRACE_SECONDS,
        log_bytes=settings.JOB_LOG_MAX_BYTES,
        labels={
            "mlops.installation": settings.INSTALLATION_ID,
            "mlops.waiting": str(waiting_id),
        },
    )


def spec_of(
    attempt: Attempt,
    *,
    environment: Environment,
    platform_folder: Path,
) -> SandboxSpec:
    """The sandbox of this attempt; limits are the ones the job was accepted with."""
    job = attempt.job
    return job_spec(
        name=f"mlops-{settings.INSTALLATION_ID}-job-{job.pk.hex[:12]}-{attempt.number}",
        image=environment.image or settings.RUNNER_IMAGE,
        script_folder=script_folder(attempt),
        script_name=job.script_name,
        environment_folder=environment.path,
        platform_folder=platform_folder,
        data_folder=settings.DATA_DIR,
        variables=known_variables(job),
        network=docker_network(job.network),
        resolvers=resolvers(job.network),
        limits=limits_of(job),
        runtime=settings.SANDBOX_RUNTIME,
        deadline_seconds=job.timeout_seconds,
        grace_seconds=settings.JOB_GRACE_SECONDS,
        log_bytes=settings.JOB_LOG_MAX_BYTES,
        log_hard_bytes=settings.JOB_LOG_HARD_BYTES,
        labels=job_labels(attempt),
        gpu_devices=gpus.devices_of(attempt) if job.gpus else (),
    )


def job_variables(
    attempt: Attempt, *, experiment_id: str, username: str, password: str
) -> dict[str, str]:
    """What the script finds in `os.environ`: the user's own, and what points it to MLflow.

    `MLFLOW_RUN_CONTEXT` tags every run and model with job and attempt. `MLFLOW_RUN_ID` is never
    set: it crashes scripts that call `set_experiment`. Requirements are not inferred, which takes
    MLflow 4 to 8 seconds: the job's environment is known exactly. What MLflow says of that is kept
    out of the log (`sandbox/image/job_path`).
    """
    job = attempt.job
    tags = {**job.tags, "job_id": str(job.pk), "job_attempt": attempt_tag(attempt)}
    return {
        **_threads(job.cpus),
        **job.environment,
        **proxy_variables(job.network),
        **_tracking(),
        "MLFLOW_TRACKING_USERNAME": username,
        "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_EXPERIMENT_ID": experiment_id,
        "MLFLOW_RUN_CONTEXT": json.dumps(tags),
    }


def known_variables(job: Job) -> dict[str, str]:
    """What of them is known before there is an MLflow user; no secret of the job's is in it."""
    return _known_variables(cpus=job.cpus, network=job.network)


def _known_variables(*, cpus: float, network: str) -> dict[str, str]:
    return {**_threads(cpus), **proxy_variables(network), **_tracking()}


def _usual_limits() -> Limits:
    """Of a job that asks for nothing."""
    return Limits(
        memory_mb=settings.JOB_MEMORY_MB,
        cpus=settings.JOB_CPUS,
        pids=settings.JOB_PIDS,
        scratch_mb=settings.JOB_SCRATCH_MB,
    )


def _sandbox_limits(limits: JobLimits) -> Limits:
    return Limits(
        memory_mb=limits.memory_mb,
        cpus=limits.cpus,
        pids=limits.pids,
        scratch_mb=limits.scratch_mb,
    )


def _threads(cpus: float) -> dict[str, str]:
    threads = str(max(1, round(cpus)))
    return {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}


def _tracking() -> dict[str, str]:
    """The same for every job, and no secret."""
    return {
        "MLFLOW_TRACKING_URI": settings.MLFLOW_TRACKING_URI,
        "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(MLFLOW_RETRIES),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(MLFLOW_REQUEST_SECONDS),
        "GIT_PYTHON_REFRESH": "quiet",
    }
