"""Names of the MLflow users that attempts have, and which attempt one of them writes for.

Knows neither rows nor MLflow: the platform makes names here, MLflow's own process reads them.
"""

import secrets
import uuid

PREFIX = "job-"
# As much of a job's id as a name has: random bits that no script can choose.
JOB_CHARACTERS = 12


def user_prefix(installation_id: str) -> str:
    """What the names of all users of an installation begin with."""
    return f"{PREFIX}{installation_id}-"


def new_user_name(installation_id: str, job: uuid.UUID, attempt: int) -> str:
    """A new name for an attempt's user: one who was deleted never comes back."""
    return (
        f"{user_prefix(installation_id)}{job.hex[:JOB_CHARACTERS]}-{attempt}-{secrets.token_hex(3)}"
    )


def attempt_tag(job: uuid.UUID, attempt: int) -> str:
    """What MLflow's runs and models of this attempt, and of no other, are tagged with."""
    return f"{job}/{attempt}"


def is_job_user(username: str) -> bool:
    return username.startswith(PREFIX)


def is_tag_of(username: str, tag: str) -> bool:
    """Whether `tag` names the attempt that the user was made for."""
    parts = username.rsplit("-", 3)
    job, _, attempt = tag.partition("/")
    if len(parts) != 4:
        return False
    return job.replace("-", "")[:JOB_CHARACTERS] == parts[1] and attempt == parts[2]
