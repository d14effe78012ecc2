"""The registry against a real MLflow server, with scripts that log as a job's script does."""

import json
import os
import pickle
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from registry.job_tokens import PREFIX, new_token
from registry.job_users import attempt_tag, new_user_name
from registry.mlflow_client import (
    AliasNotFound,
    LoggedModel,
    ModelNotFound,
    ModelRegistry,
    ModelVersionNotFound,
    NoModelInRun,
    RegistryRefused,
    RegistryUnavailable,
    RunNotFound,
)
from registry.signatures import Declared
from tests.fixtures.mlflow import MlflowServer

# The job's own MLflow is older; the format is what it would choose there.
LOG_MODEL = """
import mlflow, mlflow.sklearn
from sklearn.linear_model import LogisticRegression
with mlflow.start_run():
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    mlflow.sklearn.log_model(model, "model", serialization_format="cloudpickle")
"""


def ready_models(registry: ModelRegistry, attempt: str) -> list[LoggedModel]:
    return [model for model in registry.logged_models(attempt) if model.ready]


class JobUser:
    """A job's own MLflow user, and scripts run as it."""

    def __init__(self, server: MlflowServer, experiment: str, folder: Path) -> None:
        self.server = server
        job = uuid.uuid4()
        self.attempt = attempt_tag(job, 1)
        self.name = new_user_name("test", job, 1)
        self.password = new_token()
        self.experiment_id = server.registry.open_job_user(self.name, self.password, experiment)
        self._folder = folder

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.server.uri,
            "MLFLOW_TRACKING_USERNAME": self.name,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
            "MLFLOW_RUN_CONTEXT": json.dumps({"job_attempt": self.attempt}),
            "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        }
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def registry(mlflow_server: MlflowServer) -> ModelRegistry:
    return mlflow_server.registry


@pytest.fixture(scope="module")
def job(mlflow_server: MlflowServer, tmp_path_factory) -> JobUser:
    """A job that has logged one model."""
    user = JobUser(mlflow_server, "churn", tmp_path_factory.mktemp("job"))
    done = user.run(LOG_MODEL)
    assert done.returncode == 0, done.stderr
    return user


@pytest.fixture(scope="module")
def other(mlflow_server: MlflowServer, tmp_path_factory) -> JobUser:
    return JobUser(mlflow_server, "another team's", tmp_path_factory.mktemp("other"))


def test_a_jobs_models_are_found_by_its_tag(registry, job):
    (model,) = ready_models(registry, job.attempt)
    assert model.ready
    assert registry.runs_of_attempt(job.attempt) == [model.run_id]
    assert ready_models(registry, str(uuid.uuid4())) == []


def test_a_model_becomes_version_after_version(registry, job):
    (model,) = ready_models(registry, job.attempt)
    first = registry.register_logged_model("versions", model, tags={"team": "growth"})
    second = registry.register_logged_model("versions", model, tags={}, description="again")
    assert (first.version, second.version) == ("1", "2")
    assert registry.version("versions", "1").tags == {"team": "growth"}
    assert registry.version("versions", None).version == "2"
    assert registry.version("versions", "2").description == "again"
    assert first.model_id == model.model_id


def test_an_alias_names_a_version_until_it_is_moved_or_taken_away(registry, job):
    (model,) = ready_models(registry, job.attempt)
    for _ in range(2):
        registry.register_logged_model("aliased", model, tags={})
    registry.set_alias("aliased", "champion", "1")
    registry.set_alias("aliased", "champion", "2")
    assert registry.aliased("aliased", "champion").version == "2"
    assert registry.aliases("aliased") == {"champion": "2"}
    registry.delete_alias("aliased", "champion")
    with pytest.raises(AliasNotFound):
        registry.aliased("aliased", "champion")
    with pytest.raises(ModelNotFound):
        registry.aliased("nope", "champion")
    with pytest.raises(ModelVersionNotFound):
        registry.set_alias("aliased", "champion", "9")


def test_pages_of_models_have_newest_versions_and_aliases_in_one_answer(registry, job):
    (model,) = ready_models(registry, job.attempt)
    for name in ("paged a", "paged b", "paged ü 100%"):
        for _ in range(2):
            registry.register_logged_model(name, model, tags={})
    registry.set_alias("paged a", "champion", "1")
    first = registry.catalog.models(text="PAGED", limit=2)
    assert [one.name for one in first.models] == ["paged a", "paged b"]
    assert first.models[0].latest_versions[0].version == "2"
    assert first.models[0].aliases == {"champion": "1"}
    last = registry.catalog.models(text="PAGED", after=first.after, limit=2)
    assert [one.name for one in last.models] == ["paged ü 100%"] and last.after == ""
    assert registry.catalog.model("paged a").aliases == {"champion": "1"}
    assert registry.catalog.models(text="it's \\ \" nothing", limit=2).models == ()
    with pytest.raises(RegistryRefused):
        registry.catalog.models(after="nonsense", limit=2)
    with pytest.raises(ModelNotFound):
        registry.catalog.model("nope")


def test_pages_of_versions_go_from_the_newest_to_older_ones(registry, job):
    (model,) = ready_models(registry, job.attempt)
    for _ in range(3):
        registry.register_logged_model("many", model, tags={})
    page = registry.catalog.versions("many", limit=2)
    assert ([one.version for one in page.versions], page.is_last) == (["3", "2"], False)
    page = registry.catalog.versions("many", below=2, limit=2)
    assert ([one.version for one in page.versions], page.is_last) == (["1"], True)


def test_a_run_tells_its_metrics_and_tags(registry, job):
    (run_id,) = registry.runs_of_attempt(job.attempt)
    run = registry.catalog.run(run_id)
    assert (run.run_id, run.status) == (run_id, "FINISHED")
    assert run.tags["job_attempt"] == job.attempt and run.experiment_id == job.experiment_id
    with pytest.raises(RunNotFound):
        registry.catalog.run("0" * 32)


def test_a_run_tells_its_curves_and_artifacts(registry, job):
    (run_id,) = registry.runs_of_attempt(job.attempt)
    assert registry.catalog.curve(run_id, "nothing", points=10) == []
    metrics = [
        {"key": "loss", "value": 1 / (step + 1), "timestamp": 1000 + step, "step": step}
        for step in range(2000)
    ]
    for at in range(0, 2000, 1000):
        body = {"run_id": run_id, "metrics": metrics[at : at + 1000]}
        registry._rest.post("runs/log-batch", body)
    assert "loss" in registry.catalog.run(run_id).curves
    curve = registry.catalog.curve(run_id, "loss", points=100)
    assert 50 <= len(curve) <= 110
    assert [point.step for point in curve] == sorted(point.step for point in curve)
    assert (curve[0].step, curve[0].value, curve[-1].step) == (0, 1.0, 1999)
    assert registry.catalog.artifacts(run_id) == []
    with pytest.raises(RunNotFound):
        registry.catalog.artifacts("0" * 32)


def test_a_version_that_an_interrupted_try_made_is_found_again(registry, job):
    (model,) = ready_models(registry, job.attempt)
    assert registry.version_of_logged_model("interrupted", model) is None
    made = registry.register_logged_model("interrupted", model, tags={})
    assert registry.version_of_logged_model("interrupted", model) == made


def test_a_run_is_registered_by_hand(registry, job):
    (run_id,) = registry.runs_of_attempt(job.attempt)
    version = registry.register_run("by_hand", run_id, description="d", tags={"a": "b"})
    assert (version.version, version.run_id) == ("1", run_id)
    listed = {model.name: model for model in registry.list_models()}
    assert listed["by_hand"].latest_versions == (registry.version("by_hand", "1"),)


def test_what_is_not_there_is_named_in_the_contracts_words(registry, job):
    (model,) = ready_models(registry, job.attempt)
    registry.register_logged_model("my_model", model, tags={})
    with pytest.raises(ModelVersionNotFound, match="^Model my_model version 999 not found$"):
        registry.version("my_model", "999")
    with pytest.raises(ModelNotFound, match="^Model nope not found$"):
        registry.version("nope", None)
    with pytest.raises(ModelNotFound, match="^Model nope' not found$"):
        registry.model("nope'")
    with pytest.raises(RunNotFound, match="^Run nope not found$"):
        registry.register_run("my_model", "nope", description="", tags={})


def test_a_run_without_a_model_is_refused_and_makes_no_model(registry, other):
    assert other.run("import mlflow\nmlflow.start_run()\n").returncode == 0
    (run_id,) = registry.runs_of_attempt(other.attempt)
    with pytest.raises(NoModelInRun):
        registry.register_run("never_made", run_id, description="", tags={})
    with pytest.raises(ModelNotFound):
        registry.model("never_made")


def test_a_model_that_log_model_began_and_did_not_finish_is_never_ready(
    registry, mlflow_server, tmp_path
):
    user = JobUser(mlflow_server, "unfinished", tmp_path)
    done = user.run(
        "import mlflow\n"
        "with mlflow.start_run():\n"
        "    mlflow.initialize_logged_model(name='model')\n"
    )
    assert done.returncode == 0, done.stderr
    assert len(registry.logged_models(user.attempt)) == 1
    assert ready_models(registry, user.attempt) == []


def test_runs_that_a_killed_script_left_open_are_ended(registry, mlflow_server, tmp_path):
    user = JobUser(mlflow_server, "killed", tmp_path)
    user.run("import mlflow, os\nmlflow.start_run()\nos.kill(os.getpid(), 9)\n")
    (run_id,) = registry.runs_of_attempt(user.attempt)
    registry.end_runs(user.attempt, succeeded=False)
    answer = registry._rest.get("runs/get", {"run_id": run_id})
    assert answer["run"]["info"]["status"] == "FAILED"


def test_a_downloaded_model_is_the_model_that_was_logged(registry, job, tmp_path):
    (model,) = ready_models(registry, job.attempt)
    version = registry.register_logged_model("downloaded", model, tags={})
    registry.download_model(version, tmp_path / "model")
    assert (tmp_path / "model" / "MLmodel").is_file()
    loaded = pickle.loads((tmp_path / "model" / "model.pkl").read_bytes())
    assert loaded.predict([[0.0], [1.0]]).tolist() == [0, 1]
    assert any(line.startswith("scikit-learn==") for line in registry.requirements_of(version))


def test_a_version_tells_how_it_is_opened_what_it_takes_and_its_files(registry, job, monkeypatch):
    (model,) = ready_models(registry, job.attempt)
    version = registry.register_logged_model("told", model, tags={})
    about = registry.about(version)
    assert about.flavours == ("sklearn", "python_function")
    assert about.declared == Declared.NONE and about.mlflow_version
    assert {"MLmodel", "model.pkl", "requirements.txt"} <= {file.path for file in about.files}
    assert all(file.size_bytes for file in about.files if not file.is_folder)
    monkeypatch.setattr(registry._rest, "call", lambda *_, **__: pytest.fail("asked again"))
    assert registry.about(version) == about


def test_a_listing_that_leads_out_of_the_folder_is_refused(registry, job, tmp_path, monkeypatch):
    (model,) = ready_models(registry, job.attempt)
    version = registry.register_logged_model("hostile", model, tags={})
    root = registry._files.place(version)
    monkeypatch.setattr(registry._files, "_below", lambda folder: iter([root / ".." / "x"]))
    with pytest.raises(RegistryRefused):
        registry.download_model(version, tmp_path / "model")
    assert not (tmp_path / "x").exists()


def test_a_job_reads_and_writes_nothing_of_another_experiment(registry, job, other):
    (run_id,) = registry.runs_of_attempt(job.attempt)
    (model,) = ready_models(registry, job.attempt)
    script = f"""
import mlflow
client = mlflow.MlflowClient()
attempts = {{
    "read the run": lambda: client.get_run({run_id!r}),
    "write to the run": lambda: client.log_metric({run_id!r}, "stolen", 1),
    "list the runs": lambda: len(client.search_runs([{job.experiment_id!r}])) or 1 / 0,
    "read the model": lambda: client.get_logged_model({model.model_id!r}),
    "load the model": lambda: mlflow.artifacts.download_artifacts("models:/{model.model_id}"),
    "delete the experiment": lambda: client.delete_experiment({job.experiment_id!r}),
}}
for name, attempt in attempts.items():
    try:
        attempt()
        print("REACHED", name)
    except (mlflow.MlflowException, ZeroDivisionError):
        print("denied", name)
"""
    done = other.run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("denied") == 6, done.stdout


def test_a_deleted_job_user_opens_nothing(registry, mlflow_server, tmp_path):
    user = JobUser(mlflow_server, "short-lived", tmp_path)
    assert user.run("import mlflow\nmlflow.start_run()\n").returncode == 0
    registry.delete_job_user(user.name)
    registry.delete_job_user(user.name)
    assert user.run("import mlflow\nmlflow.start_run()\n").returncode != 0


def test_a_jobs_random_password_is_hashed_quickly_and_a_persons_slowly(
    registry: ModelRegistry, mlflow_server: MlflowServer
):
    experiment = registry.ensure_experiment("hashes")
    passwords = {"job-quick": new_token(), "ann": "a long password", "bob": f"{PREFIX}short"}
    for name, password in passwords.items():
        registry.create_job_user(name, password, experiment)
    with closing(sqlite3.connect(mlflow_server.home / "auth.db")) as database:
        kept = dict(database.execute("SELECT username, password_hash FROM users").fetchall())
    methods = {name: kept[name].partition("$")[0] for name in passwords}
    assert methods["job-quick"] == "pbkdf2:sha256:1"
    assert methods["ann"] == methods["bob"] == "scrypt:32768:8:1"
    for name, password in passwords.items():
        with pytest.raises(RegistryRefused):
            ModelRegistry(
                tracking_uri=mlflow_server.uri, username=name, password=f"{password}x"
            ).ensure_experiment("hashes")
        its = ModelRegistry(tracking_uri=mlflow_server.uri, username=name, password=password)
        assert its.ensure_experiment("hashes") == experiment


def test_an_experiment_is_made_once_and_a_deleted_one_is_refused(registry):
    experiment_id = registry.ensure_experiment("once")
    assert registry.ensure_experiment("once") == experiment_id
    registry._rest.post("experiments/delete", {"experiment_id": experiment_id})
    with pytest.raises(RegistryRefused, match="deleted"):
        registry.ensure_experiment("once")


def test_what_there_is_is_counted(registry, job):
    counts = registry.counts()
    assert counts.registered_models == len(registry.list_models())
    assert counts.experiments >= 2


def test_a_server_that_is_away_is_unavailable_and_no_other_error():
    away = ModelRegistry(tracking_uri="http://127.0.0.1:9", username="a", password="b")
    assert away.available(timeout_seconds=0.5) is False
    with pytest.raises(RegistryUnavailable):
        away.list_models()
