"""What retention and the search for forgotten users ask of MLflow, on a real server."""

import uuid
from pathlib import Path

import pytest

from registry.mlflow_client import ModelRegistry
from tests.fixtures.mlflow import MlflowServer
from tests.mlflow.test_model_registry import LOG_MODEL, JobUser


@pytest.fixture(scope="module")
def registry(mlflow_server: MlflowServer) -> ModelRegistry:
    return mlflow_server.registry


def a_run(registry: ModelRegistry, attempt: str) -> str:
    tags = [
        {"key": "job_attempt", "value": attempt},
        {"key": "job_id", "value": attempt.partition("/")[0]},
    ]
    body = {"experiment_id": registry.ensure_experiment("retention"), "tags": tags}
    return str(registry._rest.post("runs/create", body)["run"]["info"]["run_id"])


def test_everybody_who_may_log_in_is_listed(mlflow_server: MlflowServer, registry: ModelRegistry):
    name = f"job-x-{uuid.uuid4().hex[:8]}"
    registry.create_job_user(name, "a long password", registry.ensure_experiment("retention"))
    assert {"admin", name} <= set(registry.user_names())
    registry.delete_job_user(name)
    assert name not in registry.user_names()


def test_runs_of_an_attempt_without_a_model_are_deleted(registry: ModelRegistry):
    attempt, other = f"{uuid.uuid4()}/1", f"{uuid.uuid4()}/1"
    for each in (attempt, attempt, other):
        a_run(registry, each)
    assert registry.delete_runs_without_model(attempt) == 2
    assert registry.runs_of_attempt(attempt) == []
    assert len(registry.runs_of_attempt(other)) == 1
    assert registry.delete_runs_without_model(attempt) == 0


def test_a_run_that_a_registered_model_came_from_stays_and_its_job_is_known(
    mlflow_server: MlflowServer, registry: ModelRegistry, tmp_path: Path
):
    user = JobUser(mlflow_server, "retention of models", tmp_path)
    done = user.run(LOG_MODEL)
    assert done.returncode == 0, done.stderr
    (model,) = registry.logged_models(user.attempt)
    name = f"kept-{uuid.uuid4().hex[:6]}"
    # As the platform does it, and by hand: then only the run says which job it was.
    registry.register_logged_model(name, model, tags={"mlops.job_id": "the-job"})
    assert "the-job" in registry.jobs_with_models()
    by_hand = str(uuid.uuid4())
    registry._rest.post("runs/set-tag", {"run_id": model.run_id, "key": "job_id", "value": by_hand})
    registry.register_logged_model(name, model, tags={})
    assert {"the-job", by_hand} <= registry.jobs_with_models()
    assert registry.delete_runs_without_model(user.attempt) == 0
    assert registry.runs_of_attempt(user.attempt) == [model.run_id]
