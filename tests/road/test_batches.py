"""A file of rows is predicted as a job, in a container of its own, whatever is killed meanwhile."""

import csv
import io
from typing import Any

import numpy as np
import pytest
import requests

from deploy.trial import Platform, wait_for
from sandbox.container import Kind
from sandbox.engine import ContainerState, Engine

PATH = "/mlops/inference/batch"
SECONDS = 120
ROWS = 12_000
# Slow enough to be met in the middle of its first chunk, and only where a row says so.
MODELS = """\
import mlflow
import mlflow.sklearn
import numpy as np
from sklearn.linear_model import LogisticRegression


class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import threading
        threading.Event().wait(float(model_input.iloc[0, 0]))
        return [7 for _ in range(len(model_input))]


rows = np.random.default_rng(0).normal(size=(200, 3))
model = LogisticRegression().fit(rows, rows[:, 0] > 0)
with mlflow.start_run():
    if KIND == "line":
        mlflow.sklearn.log_model(model, "model")
    else:
        mlflow.pyfunc.log_model("model", python_model=Slow())
"""


@pytest.fixture(scope="module")
def models(platform: Platform) -> None:
    """A logistic model of three columns, and one that waits as long as its first row says."""
    sent = [
        platform.upload(
            f"KIND = {kind!r}\n{MODELS}", model_name=f"batch_{kind}", requirements=["scikit-learn"]
        )
        for kind in ("line", "slow")
    ]
    for job in sent:
        ended = platform.ended(job)
        assert ended["status"] == "completed", ended


def send(platform: Platform, content: str, **fields: str) -> str:
    answer = requests.post(
        f"{platform.url}{PATH}",
        files={"file": ("rows.csv", content.encode())},
        data=fields,
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


def ended(platform: Platform, path: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        batch = platform.get(path).json()
        return batch if batch["status"] in ("completed", "failed", "cancelled") else None

    return wait_for(look, seconds=SECONDS, what=f"the end of {path}")


def container_of(platform: Platform, engine: Engine) -> ContainerState:
    """Of the one batch that runs."""
    labels = {"mlops.installation": platform.installation_id, "mlops.kind": str(Kind.BATCH)}

    def look() -> ContainerState | None:
        return next((state for state in engine.find(labels) if state.running), None)

    return wait_for(look, seconds=SECONDS, what="the batch's container", every=0.05)


def none_left(platform: Platform, engine: Engine) -> bool:
    labels = {"mlops.installation": platform.installation_id, "mlops.kind": str(Kind.BATCH)}
    return engine.find(labels) == []


def test_a_files_predictions_are_those_of_a_request(
    platform: Platform, engine: Engine, models: None
):
    inputs = np.random.default_rng(1).normal(size=(ROWS, 3)).tolist()
    text = io.StringIO()
    csv.writer(text).writerows([["a", "b", "c"], *inputs])
    # With the inputs beside, lines of its record are longer than the engine's pieces.
    wishes = {"return_probabilities": "true", "include_inputs": "true"}
    path = send(platform, text.getvalue(), model_name="batch_line", **wishes)
    batch = ended(platform, path)
    assert (batch["status"], batch["rows_done"], batch["model_version"]) == (
        "completed",
        ROWS,
        "1",
    ), batch
    fetched = platform.get(batch["predictions"])
    assert fetched.headers["Content-Disposition"].startswith("attachment")
    header, *rows = csv.reader(io.StringIO(fetched.text))
    assert header == ["a", "b", "c", "prediction", "probability_false", "probability_true"]
    assert [[float(cell) for cell in row[:3]] for row in rows] == inputs
    asked = {"model_name": "batch_line", "inputs": inputs, "return_probabilities": True}
    said = platform.post("/mlops/inference", asked).json()
    assert [row[3] == "true" for row in rows] == said["predictions"]
    assert [[float(cell) for cell in row[4:]] for row in rows] == said["probabilities"]
    assert none_left(platform, engine)


def test_a_batch_is_locked_in_outlives_the_death_of_its_container_and_can_be_cancelled(
    platform: Platform, engine: Engine, models: None
):
    path = send(platform, "wait\n" + "3\n" * ROWS, model_name="batch_slow")
    container = container_of(platform, engine)
    inspect = engine.api.inspect_container(container.id)
    host_config = inspect["HostConfig"]
    assert host_config["NetworkMode"] == "none"
    assert (host_config["ReadonlyRootfs"], host_config["CapDrop"]) == (True, ["ALL"])
    assert {mount["Destination"] for mount in inspect["Mounts"]} >= {"/data", "/model", "/env"}
    assert not any(mount["RW"] for mount in inspect["Mounts"])
    assert platform.get(f"{path}/predictions").status_code == 409
    engine.kill(container.id)
    batch = ended(platform, path)
    assert (batch["status"], batch["attempts"], batch["rows_done"]) == ("completed", 2, ROWS)

    path = send(platform, "wait\n" + "600\n" * 10, model_name="batch_slow")
    container_of(platform, engine)
    for _ in range(2):
        assert platform.post(f"{path}/cancel", {}).status_code == 202
    assert ended(platform, path)["status"] == "cancelled"
    assert none_left(platform, engine)
