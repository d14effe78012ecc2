"""Environments on the whole platform: listed, kept for models, built again when they are lost."""

import shutil
import tomllib
from typing import Any

import requests

from deploy.testing import ENVIRONMENTS
from deploy.trial import Platform, wait_for
from sandbox.engine import Engine

BUILD_SECONDS = 300
TRAINS = """
import mlflow, mlflow.sklearn
from sklearn.linear_model import LogisticRegression
with mlflow.start_run():
    model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    mlflow.sklearn.log_model(model, "model")
"""


def environment_with(platform: Platform, pin: str) -> dict[str, Any]:
    for row in platform.get("/mlops/environments").json()["environments"]:
        found = platform.get(f"/mlops/environments/{row['key']}").json()
        if pin in found["pins"]:
            return dict(found)
    raise AssertionError(f"no environment has {pin}")


def answered(platform: Platform, asked: dict[str, Any]) -> requests.Response:
    """The model's answer, once it does not say that the model is still being loaded."""

    def look() -> requests.Response | None:
        answer = platform.post("/mlops/inference", asked)
        starting = answer.status_code == 503 and answer.json()["code"] == "model_starting"
        return None if starting else answer

    return wait_for(look, seconds=BUILD_SECONDS, what="an answer of the model")


def test_a_models_lost_environment_is_built_again_from_its_lock_when_it_is_asked(
    platform: Platform, engine: Engine
):
    job = platform.run(
        TRAINS, model_name="lost_environment", requirements=["scikit-learn", "six==1.14.0"]
    )
    assert job["status"] == "completed", job
    path = f"/mlops/training/jobs/{job['job_id']}/environment"
    lock = platform.get(path).text
    pylock = tomllib.loads(platform.get(f"{path}/pylock.toml").text)
    assert "--hash=sha256:" in lock
    assert {"name": "six", "version": "1.14.0"}.items() <= next(
        package for package in pylock["packages"] if package["name"] == "six"
    ).items()

    environment = environment_with(platform, "six==1.14.0")
    assert environment["requirements_txt"] == lock
    python = platform.get("/mlops/training/limits").json()["python_version"]
    assert {job["python_version"], environment["python_version"]} == {python["default"]}
    address = f"/mlops/environments/{environment['key']}"
    refused = platform.delete(address)
    assert refused.status_code == 409
    assert "lost_environment" in refused.json()["detail"]

    asked = {"model_name": "lost_environment", "inputs": [[0.0], [3.0]]}
    assert answered(platform, asked).status_code == 200
    servers = {"mlops.installation": platform.installation_id, "mlops.kind": "server"}
    for server in engine.find(servers):
        engine.remove(server.id)
    folder = ENVIRONMENTS / "envs" / environment["key"]
    shutil.rmtree(folder)
    answer = answered(platform, asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [0, 1]
    assert (folder / "lock.txt").read_text() == lock
    assert "the server of lost_environment" in platform.delete(address).json()["detail"]
