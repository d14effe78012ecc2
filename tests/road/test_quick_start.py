"""The contract's Quick Start on the whole platform: script in, served model out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.accounts import CHECKOUT
from deploy.trial import CONTRACT_SCRIPT, Platform, wait_for
from sandbox.engine import Engine
from sandbox.environments import EnvironmentStore
from sandbox.output import printed_bytes
from tests.fixtures.engine import JobRunner

SCRIPT = CONTRACT_SCRIPT.read_text()
UTC = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
ROWS = [[round(0.1 * column * (-1) ** row, 3) for column in range(20)] for row in range(5)]
QUICK_START = """\
curl -sS -X POST {url}/mlops/training/upload \\
  -H "Content-Type: application/json" \\
  -d '{{
    "script_name": "train.py",
    "script_content": "'"$(cat train.py)"'",
    "experiment_name": "my_experiment",
    "model_name": "my_model",
    "requirements": ["scikit-learn"]
  }}'
"""


@pytest.fixture(scope="module")
def first_job(platform: Platform, tmp_path_factory) -> dict:
    """The contract's own curl, in a shell, with its own script; followed to its end."""
    folder = tmp_path_factory.mktemp("quick-start")
    (folder / "train.py").write_text(SCRIPT)
    command = QUICK_START.format(url=platform.url)
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    accepted = json.loads(done.stdout)
    assert accepted["status"] == "queued"
    return platform.ended(accepted["job_id"])


def predict(platform: Platform, inputs, **fields):
    return platform.post("/mlops/inference", {"model_name": "my_model", "inputs": inputs, **fields})


def test_the_script_is_trained_and_its_model_registered(first_job: dict):
    assert first_job["status"] == "completed", first_job
    assert first_job["model_version"] == "1"
    assert re.fullmatch(r"[0-9a-f]{32}", first_job["run_id"])
    assert first_job["error"] is None
    assert "✅ Training complete! Accuracy: " in first_job["logs"]
    assert first_job["duration_seconds"] > 0
    for field in ("created_at", "started_at", "completed_at"):
        assert UTC.match(first_job[field])


def test_it_answers_with_labels_and_probabilities(platform: Platform, first_job: dict):
    answer = predict(platform, ROWS, model_version="1", return_probabilities=True)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model_name"], body["model_version"]) == ("my_model", "1")
    assert body["classes"] == [0, 1]
    assert len(body["predictions"]) == len(body["probabilities"]) == len(ROWS)
    for label, row in zip(body["predictions"], body["probabilities"], strict=True):
        assert sum(row) == pytest.approx(1)
        assert label == body["classes"][row.index(max(row))]
    assert body["inference_time_ms"] > 0
    assert UTC.match(body["timestamp"])


def test_the_probabilities_are_those_of_the_model_in_a_plain_python_process(
    platform: Platform,
    first_job: dict,
    engine: Engine,
    jobs: JobRunner,
    environments: EnvironmentStore,
    tmp_path: Path,
):
    served = predict(platform, ROWS, model_version="1", return_probabilities=True).json()
    model = platform.model_folder(first_job) / "model.pkl"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.pkl").write_bytes(model.read_bytes())
    (tmp_path / "data" / "model.pkl").chmod(0o644)
    script = (
        "import json, pickle\n"
        "model = pickle.load(open('/data/model.pkl', 'rb'))\n"
        f"rows = {ROWS!r}\n"
        "print(json.dumps([model.predict(rows).tolist(), model.predict_proba(rows).tolist()]))\n"
    )
    spec = jobs.spec(
        tmp_path,
        script,
        environment=environments.build(["scikit-learn"], output=lambda data: None),
        platform=environments.platform_folder(),
        memory_mb=1024,
    )
    output = printed_bytes(engine.follow_logs(jobs.start(spec))).decode()
    labels, probabilities = json.loads(output.strip().splitlines()[-1])
    assert served["predictions"] == labels
    assert served["probabilities"] == probabilities


def test_columns_records_and_rows_give_the_same_answer(platform: Platform, first_job: dict):
    names = [f"feature_{number}" for number in range(20)]
    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(names)}
    records = [dict(zip(names, row, strict=True)) for row in ROWS]
    answers = [
        predict(platform, inputs, return_probabilities=True).json()
        for inputs in (ROWS, columns, records)
    ]
    assert answers[0]["probabilities"] == answers[1]["probabilities"]
    assert answers[0]["probabilities"] == answers[2]["probabilities"]


def test_inputs_that_do_not_fit_say_what_was_expected(platform: Platform, first_job: dict):
    inputs = {"feature_0": [1.0, 2.0], "feature_1": [3.0, 4.0]}
    answer = predict(platform, inputs)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "expected 20 features, got 2" in answer.json()["detail"]


def test_an_unknown_version_is_named_as_the_contract_says(platform: Platform, first_job: dict):
    answer = predict(platform, ROWS, model_version="999")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Model my_model version 999 not found"


def test_an_unknown_model_is_404(platform: Platform):
    body = {"model_name": "nobody", "inputs": [[1]]}
    answer = platform.post("/mlops/inference", body)
    assert (answer.status_code, answer.json()["detail"]) == (404, "Model nobody not found")


def test_the_model_is_listed_with_the_contracts_fields(platform: Platform, first_job: dict):
    listed = {model["name"]: model for model in platform.get("/mlops/models").json()}
    model = listed["my_model"]
    assert model == platform.get("/mlops/models/my_model").json()
    (version,) = model["latest_versions"]
    assert set(version) == {"name", "version", "stage", "run_id", "created_at", "updated_at"}
    assert version["stage"] == "None"
    assert platform.get("/mlops/models/nobody").status_code == 404


def test_a_run_is_registered_by_hand_and_served(platform: Platform, first_job: dict):
    body = {
        "model_name": "by_hand",
        "run_id": first_job["run_id"],
        "description": "Production model v2.0",
        "tags": {"data_version": "2025-10"},
    }
    answer = platform.post("/mlops/registry", body)
    assert answer.status_code == 201, answer.text
    registered = answer.json()
    assert (registered["version"], registered["status"]) == ("1", "registered")
    shown = platform.get("/mlops/models/by_hand").json()
    assert shown["description"] == "Production model v2.0"
    assert shown["tags"] == {"data_version": "2025-10"}
    served = platform.post("/mlops/inference", {"model_name": "by_hand", "inputs": ROWS})
    assert served.status_code == 200, served.text
    assert served.json()["predictions"] == predict(platform, ROWS).json()["predictions"]


def test_registering_what_is_not_there_names_the_field_or_the_run(platform: Platform):
    unknown = platform.post("/mlops/registry", {"model_name": "m", "run_id": "0" * 32})
    assert unknown.status_code == 404
    wrong = platform.post("/mlops/registry", {"model_name": "a/b"})
    assert wrong.status_code == 400
    assert {error["field"] for error in wrong.json()["errors"]} == {"model_name", "run_id"}


def test_a_second_job_with_the_same_requirements_installs_nothing(
    platform: Platform, first_job: dict
):
    job = platform.run(
        SCRIPT,
        experiment_name="my_experiment",
        model_name="my_model",
        requirements=["scikit-learn"],
    )
    assert job["status"] == "completed", job
    assert job["model_version"] == "2"
    assert "Resolving" not in job["logs"]
    assert "Installing" not in job["logs"]

    def newest() -> bool:
        return predict(platform, ROWS).json()["model_version"] == "2"

    assert wait_for(newest, seconds=30, what="the new version to answer")


def test_the_status_tells_the_truth(platform: Platform, first_job: dict):
    status = platform.get("/mlops/status").json()
    assert status["mlflow_available"] is True
    assert status["feast_store_available"] is True
    assert status["feature_views"] == 2
    assert status["registered_models"] == len(platform.get("/mlops/models").json())
    assert status["active_experiments"] >= 2
    assert UTC.match(status["timestamp"])


@pytest.mark.parametrize("path", ["/mlops/status", "/mlops/models", "/mlops/models/my_model"])
def test_a_trailing_slash_makes_no_difference(platform: Platform, first_job: dict, path: str):
    assert platform.get(f"{path}/").status_code == platform.get(path).status_code == 200


@pytest.mark.parametrize(
    ("script", "requirements"),
    [
        ("sklearn_classification.py", ["scikit-learn"]),
        ("xgboost_regression.py", ["xgboost", "scikit-learn"]),
        ("lightgbm_classification.py", ["lightgbm", "scikit-learn"]),
    ],
)
def test_the_examples_go_the_whole_road_with_the_helper(
    platform: Platform, script: str, requirements: list[str]
):
    name = script.removesuffix(".py")
    command = [sys.executable, str(CHECKOUT / "examples" / "upload_training_script.py")]
    command += ["--url", platform.url, "--model", name, "--experiment", "examples"]
    command += ["--script", str(CHECKOUT / "examples" / "training_scripts" / script)]
    command += ["--requirements", *requirements, "--env", "N_ESTIMATORS=50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Done: " in done.stdout
    assert "Completed in " in done.stdout
    assert f"{name} version 1" in done.stdout
    is_classifier = "classification" in name
    columns = {"sklearn_classification": 30, "xgboost_regression": 10}.get(name, 13)
    asked = {"model_name": name, "inputs": [[0.5] * columns], "return_probabilities": is_classifier}
    answer = platform.post("/mlops/inference", asked)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["probabilities"] is not None) == is_classifier
    if not is_classifier:
        refused = platform.post("/mlops/inference", {**asked, "return_probabilities": True})
        assert refused.status_code == 400
        assert refused.json()["code"] == "no_probabilities"
