"""A model server whose starter is killed is the next worker's at once, not when a claim is over."""

import json
import os
import signal
import sqlite3
import threading
import time
from typing import Any

import pytest
import requests

from deploy.trial import Platform, wait_for
from inference.services.claims import CLAIM_SECONDS
from sandbox.engine import Engine

# Its loading takes long enough to be met in the middle.
SLOW_MODEL = """\
import mlflow

class Slow(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import threading
        threading.Event().wait(6)

    def predict(self, context, model_input, params=None):
        return [7 for _ in range(len(model_input))]

with mlflow.start_run():
    mlflow.pyfunc.log_model("model", python_model=Slow())
"""
STARTING = """
SELECT id, claim_owner, claim, container_id FROM inference_modelserver
WHERE model_name = 'slow' AND status = 'starting'
    AND claim_expires_at IS NOT NULL AND container_id <> ''
"""
READY = """
SELECT claim, container_id FROM inference_modelserver
WHERE model_name = 'slow' AND status = 'ready'
"""


def rows(platform: Platform, query: str) -> list[Any]:
    with sqlite3.connect(platform.home / "db" / "platform.sqlite3", timeout=20) as database:
        return database.execute(query).fetchall()


def ask(platform: Platform) -> int:
    body = {"model_name": "slow", "inputs": [[1.0]]}
    return platform.post("/mlops/inference", body).status_code


@pytest.fixture
def registered(platform: Platform) -> None:
    job = platform.run(SLOW_MODEL, model_name="slow")
    assert job["status"] == "completed", job


def test_a_server_whose_starter_is_killed_is_started_by_the_next_worker(
    platform: Platform, registered: None, engine: Engine
):
    asking = threading.Thread(target=ask, args=[platform], daemon=True)
    asking.start()
    (found,) = wait_for(lambda: rows(platform, STARTING), seconds=60, what="a start", every=0.05)
    server, owner, claim, container = found
    os.kill(int(owner.rpartition(":")[2]), signal.SIGKILL)
    killed_at = time.monotonic()
    (ready,) = wait_for(lambda: rows(platform, READY), seconds=CLAIM_SECONDS, what="the server")
    took = time.monotonic() - killed_at
    assert took < CLAIM_SECONDS / 2, took
    assert ready[0] != claim
    assert ready[1] != container
    assert engine.state(container) is None
    assert ask(platform) == 200
    asking.join(timeout=120)
    names = {"mlops.installation": platform.installation_id, "mlops.server": str(server)}
    assert len(engine.find(names)) == 1
    print(f"ready again after {took:.1f} s")


LINEAR_MODEL = """\
import mlflow
import mlflow.sklearn
import numpy as np
from sklearn.linear_model import LogisticRegression

rows = np.random.default_rng(0).normal(size=(200, 4))
model = LogisticRegression().fit(rows, rows[:, 0] > 0)
with mlflow.start_run():
    mlflow.sklearn.log_model(model, "model")
"""
LINEAR = "SELECT address, token, container_id FROM inference_modelserver WHERE model_name = 'line'"


def test_a_model_whose_compact_form_was_kept_starts_from_it_alone(
    platform: Platform, engine: Engine
) -> None:
    job = platform.run(LINEAR_MODEL, model_name="line", requirements=["scikit-learn"])
    assert job["status"] == "completed", job
    question = {
        "model_name": "line",
        "inputs": [[1.0, 0.0, 0.5, 2.0], [-1.0, 0.25, 0.0, 0.0]],
        "return_probabilities": True,
    }
    first = platform.post("/mlops/inference", question)
    assert first.status_code == 200, first.text
    outcome = platform.model_folder(job) / ".mlops" / "outcome-2.json"
    wait_for(outcome.exists, seconds=120, what="the trial's outcome")
    told = json.loads(outcome.read_text())
    assert (told["state"], told["proof"]["largest_difference"]) == ("kept", 0.0), told
    ((_, _, container),) = rows(platform, LINEAR)
    engine.remove(container)
    again = platform.post("/mlops/inference", question)
    assert again.status_code == 200, again.text
    assert again.json()["predictions"] == first.json()["predictions"]
    assert again.json()["probabilities"] == first.json()["probabilities"]
    ((address, token, _),) = rows(platform, LINEAR)
    about = requests.get(
        f"http://{address}/ready", headers={"Authorization": f"Bearer {token}"}, timeout=10
    ).json()
    assert (about["lane"]["state"], about["original_loaded"]) == ("kept", False)
