"""The demo's models in MLflow: experiments, runs with their curves, versions and aliases.

Rows of a registry only: no model was ever trained, and no version can be loaded.
"""

import json
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from mlops_site.demo.projects import Project
from mlops_site.demo.versions import ModelStory, source_of
from registry.mlflow_documents import tag_list
from registry.mlflow_rest import MlflowRest
from training.models import Job

STEPS = 12
ADJECTIVES = ("amber", "bold", "calm", "dusty", "eager", "fleet", "grand", "honest", "jolly")
BIRDS = ("heron", "finch", "plover", "osprey", "wren", "curlew", "siskin", "avocet", "dunlin")
DESCRIPTIONS = {
    "churn_predictor": "Whether a customer leaves within the next 30 days.",
    "card_fraud": "Whether a card payment is disputed later.",
    "demand_forecast": "Pieces sold by store and week, eight weeks ahead.",
    "credit_default": "Whether a loan is not paid back within two years.",
    "delivery_eta": "Minutes until a parcel is at the door.",
    "ticket_router": "Which team answers a ticket.",
}


def write_models(rng: random.Random, stories: Sequence[ModelStory]) -> None:
    """Raises RegistryUnavailable, and RegistryRefused where such models are there already."""
    rest = MlflowRest(
        settings.MLFLOW_TRACKING_URI,
        username=settings.MLFLOW_ADMIN_USERNAME,
        password=settings.MLFLOW_ADMIN_PASSWORD,
        call_seconds=settings.MLFLOW_CALL_SECONDS,
    )
    for story in stories:
        _write(rest, rng, story)
    jobs = [job for story in stories for job in story.jobs]
    Job.objects.bulk_update(jobs, ["run_id"])


def _write(rest: MlflowRest, rng: random.Random, story: ModelStory) -> None:
    project = story.project
    made = rest.post("experiments/create", {"name": project.experiment})
    description = DESCRIPTIONS.get(project.model, "")
    tags = tag_list({"team": project.team})
    model = {"name": project.model, "description": description, "tags": tags}
    rest.post("registered-models/create", model)
    for number, job in enumerate(story.jobs, start=1):
        better = number / (story.newest + 2)
        job.run_id = _run(rest, rng, project, job, experiment=made["experiment_id"], far=better)
        version = {
            "name": project.model,
            "source": source_of(job),
            "run_id": job.run_id,
            "tags": tag_list(_tags(job)),
        }
        rest.post("model-versions/create", version)
    for alias, version_number in story.aliases.items():
        named = {"name": project.model, "alias": alias, "version": str(version_number)}
        rest.post("registered-models/alias", named)


def _tags(job: Job) -> dict[str, str]:
    """As the platform gives them to a version that it registers."""
    return {
        **job.tags,
        "mlops.job_id": str(job.pk),
        "mlops.environment": job.environment_key,
        "mlops.python_version": job.python_version,
        "mlops.requirements": json.dumps(job.requirements),
    }


def _run(
    rest: MlflowRest,
    rng: random.Random,
    project: Project,
    job: Job,
    *,
    experiment: str,
    far: float,
) -> str:
    began, ended = job.started_at or timezone.now(), job.completed_at or timezone.now()
    run = {
        "experiment_id": experiment,
        "run_name": f"{rng.choice(ADJECTIVES)}-{rng.choice(BIRDS)}-{rng.randrange(10, 999)}",
        "start_time": _milliseconds(began),
        "tags": tag_list({"job_id": str(job.pk)}),
    }
    run_id = str(rest.post("runs/create", run)["run"]["info"]["run_id"])
    parameters = {"rows": str(20_000 + rng.randrange(40) * 1000), "seed": str(rng.randrange(99))}
    parameters |= {"estimator": project.estimator, "max_depth": str(rng.choice((4, 6, 8, 12)))}
    logged = {
        "run_id": run_id,
        "metrics": _metrics(rng, project, far=far, began=began, ended=ended),
        "params": [{"key": key, "value": value} for key, value in parameters.items()],
    }
    rest.post("runs/log-batch", logged)
    ending = {"run_id": run_id, "status": "FINISHED", "end_time": _milliseconds(ended)}
    rest.post("runs/update", ending)
    return run_id


def _metrics(
    rng: random.Random, project: Project, *, far: float, began: datetime, ended: datetime
) -> list[dict[str, Any]]:
    """Curves, step by step; `far` is how good this one is beside the best, from 0 to 1."""
    sign = 1 if project.better == "up" else -1
    best = project.metric_value * (1 + sign * 0.04 * (far - 0.8))
    found = []
    for step in range(STEPS):
        left = (1 - (step + 1) / STEPS) ** 2
        at = began + (ended - began) * (step + 1) / STEPS
        values = {
            project.metric: best * (1 - sign * 0.3 * left) + rng.uniform(-0.002, 0.002),
            "train_loss": 0.21 + 0.5 * left + rng.uniform(0, 0.012) - 0.02 * far,
            "valid_loss": 0.26 + 0.45 * left + rng.uniform(0, 0.02) - 0.02 * far,
        }
        found += [
            {"key": key, "value": round(value, 5), "step": step, "timestamp": _milliseconds(at)}
            for key, value in values.items()
        ]
    seconds = {"key": "fit_seconds", "value": round((ended - began).total_seconds(), 1)}
    return [*found, {**seconds, "step": 0, "timestamp": _milliseconds(ended)}]


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
