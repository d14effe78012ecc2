"""A good job's log is clean: what the platform itself switched off is no error there."""

from pathlib import Path

import pytest

from sandbox.environments import Environment, EnvironmentStore
from sandbox.output import printed_bytes
from tests.fixtures.engine import JobRunner

SAVES_A_MODEL = """
import logging
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

mlflow.pyfunc.save_model("/scratch/model", python_model=Model())
print(open("/scratch/model/requirements.txt").read())
logging.getLogger("mlflow.utils.environment").warning("a warning of its own")
sentence = "Encountered an unexpected error while inferring pip requirements"
logging.getLogger("train").warning(sentence)
"""
UNTRUE = "WARNING mlflow.utils.environment: Encountered an unexpected error while inferring"


@pytest.fixture
def output(
    jobs: JobRunner, plain_environment: Environment, environments: EnvironmentStore, tmp_path: Path
):
    def run(script: str, **variables: str) -> str:
        spec = jobs.spec(
            tmp_path,
            script,
            environment=plain_environment,
            platform=environments.platform_folder(),
            memory_mb=1024,
            variables=variables,
        )
        container = jobs.start(spec)
        told = printed_bytes(jobs.engine.follow_logs(container)).decode()
        assert jobs.engine.wait(container, timeout_seconds=120) == 0, told
        return told

    return run


def test_what_the_platform_switched_off_is_no_error_in_a_jobs_log(output):
    told = output(SAVES_A_MODEL, MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT="0")
    assert UNTRUE not in told
    assert "mlflow==" in told
    assert "a warning of its own" in told
    assert "Encountered an unexpected error while inferring pip requirements" in told


def test_the_same_words_are_told_where_they_are_true(output):
    """Without our switch, with a search that is ended by somebody else's."""
    assert UNTRUE in output(SAVES_A_MODEL, MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT="00")


def test_a_script_finds_its_environment_before_the_plugin_and_nothing_else_of_ours(output):
    script = "import os, sys\nprint(sys.path)\nprint(os.listdir('/opt/mlops/job_path'))\n"
    path, listed = output(script).splitlines()
    assert path.startswith("['/job', '/opt/mlops/job_path', ")
    ours = ["__pycache__", "mlops_job_log-1.dist-info", "mlops_job_log.py"]
    assert sorted(eval(listed)) == ours
