"""Where a version comes from: the job that registered it, its run, and what it was made with.

Tags of a version are ours where their names begin with `mlops.`; those of a run are the script's,
which may say anything: they are asked only where there are none of ours.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.mlflow_client import ModelVersion
from registry.mlflow_documents import Run

OURS = ("mlops.", "mlflow.")
TAGS_SHOWN, REQUIREMENTS_SHOWN = 30, 50


@dataclass(frozen=True)
class Origin:
    """Each empty where nobody wrote it down."""

    job: uuid.UUID | None
    environment: str
    python: str
    requirements: Sequence[str]
    tags: Sequence[tuple[str, str]]

    @property
    def short_job(self) -> str:
        return str(self.job)[:8] if self.job else ""


def origin_of(version: ModelVersion, run: Run | None) -> Origin:
    tags = version.tags
    of_run = run.tags if run else {}
    return Origin(
        job=_id(tags.get("mlops.job_id") or of_run.get("job_id", "")),
        environment=tags.get("mlops.environment", ""),
        python=tags.get("mlops.python_version", ""),
        requirements=_requirements(tags),
        tags=sorted((name, value) for name, value in tags.items() if not name.startswith(OURS))[
            :TAGS_SHOWN
        ],
    )


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _requirements(tags: Mapping[str, str]) -> list[str]:
    try:
        listed = json.loads(tags.get("mlops.requirements", "[]"))
    except (ValueError, RecursionError):
        return []
    return [str(one) for one in listed][:REQUIREMENTS_SHOWN] if isinstance(listed, list) else []
