"""What a job's MLflow user tries against other jobs, asked of MLflow itself and of its folder.

A real server with its users. What is denied to a user is denied to the script that has its
password, wherever it runs.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from registry import mlflow_client
from registry.mlflow_client import LoggedModel, RegistryRefused
from tests.fixtures.mlflow import MlflowServer
from tests.mlflow.test_model_registry import JobUser, ready_models

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"
CALL_SECONDS = 30
ATTACKERS = "attackers"
# In the name of a file, and what is in it, that nobody but its job may see.
ONLY_THERE = "payroll.csv"


@dataclass
class Attacker:
    """Plain requests with a job's password: no client that would be polite."""

    user: JobUser

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """The path goes out as it is written, dots and all."""
        request = requests.Request(method, self.user.server.uri, **options)
        prepared = request.prepare()
        prepared.prepare_auth((self.user.name, self.user.password))
        prepared.url = f"{self.user.server.uri}{path}" + (
            f"?{prepared.url.partition('?')[2]}" if "?" in str(prepared.url) else ""
        )
        with requests.Session() as session:
            return session.send(prepared, timeout=CALL_SECONDS)

    def post(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        return self.call("POST", f"{API}/{path}", json=dict(body))

    def log_model(self, attempt: str) -> str:
        """As `log_model` does, without its imports: a model with one file. Its id."""
        experiment = self.user.experiment_id
        run = self.post("runs/create", {"experiment_id": experiment}).json()["run"]["info"]
        body = {
            "experiment_id": experiment,
            "name": "model",
            "source_run_id": run["run_id"],
            "tags": [{"key": "job_attempt", "value": attempt}],
        }
        model_id = self.post("logged-models", body).json()["model"]["info"]["model_id"]
        self.put(f"{experiment}/models/{model_id}/artifacts/MLmodel", b"flavors: {}\n")
        ready = {"model_id": model_id, "status": "LOGGED_MODEL_READY"}
        done = self.call("PATCH", f"{API}/logged-models/{model_id}", json=ready)
        assert done.ok, done.text
        return str(model_id)

    def put(self, path: str, data: bytes) -> None:
        answer = self.call("PUT", f"{ARTIFACTS}/{path}", data=data)
        assert answer.ok, answer.text


@pytest.fixture(scope="module")
def victim(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> JobUser:
    """A job that has logged a model, which is registered."""
    user = JobUser(mlflow_server, "victims", tmp_path_factory.mktemp("victim"))
    logged = Attacker(user).log_model(user.attempt)
    Attacker(user).put(f"{user.experiment_id}/models/{logged}/artifacts/{ONLY_THERE}", b"flavors")
    return user


@pytest.fixture(scope="module")
def model(mlflow_server: MlflowServer, victim: JobUser) -> LoggedModel:
    (logged,) = ready_models(mlflow_server.registry, victim.attempt)
    mlflow_server.registry.register_logged_model("victims-model", logged, tags={})
    return logged


@pytest.fixture(scope="module")
def attacker(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Attacker:
    return Attacker(JobUser(mlflow_server, ATTACKERS, tmp_path_factory.mktemp("attacker")))


@pytest.fixture(scope="module")
def own_run(attacker: Attacker) -> str:
    answer = attacker.post("runs/create", {"experiment_id": attacker.user.experiment_id})
    return str(answer.json()["run"]["info"]["run_id"])


def files_of(server: MlflowServer) -> dict[str, bytes]:
    """Every artifact that there is outside the attacker's own runs, by the host's word."""
    own = server.home / "artifacts" / server.registry.ensure_experiment(ATTACKERS)
    found = [path for path in (server.home / "artifacts").rglob("*") if path.is_file()]
    assert found
    return {str(path): path.read_bytes() for path in found if own not in path.parents}


def below(folder: str, attacker: Attacker, run: str) -> list[str]:
    """A path to a folder of somebody else, in each of the ways that a filter may overlook."""
    own = f"{attacker.user.experiment_id}/{run}/artifacts"
    return [
        folder,
        f"/{folder}",
        f"./{folder}",
        f"{own}/../../../{folder}",
        f"{own}/%2e%2e/%2e%2e/%2e%2e/{folder}",
        f"{own}/%252e%252e/%252e%252e/%252e%252e/{folder}",
        f"{own}/..%2f..%2f..%2f{folder}",
        f"{own}/..%5c..%5c..%5c{folder}",
        f"%2f{folder}",
    ]


def test_nobody_elses_files_are_written_read_listed_or_deleted(
    mlflow_server: MlflowServer,
    victim: JobUser,
    model: LoggedModel,
    attacker: Attacker,
    own_run: str,
):
    before = files_of(mlflow_server)
    folder = f"{victim.experiment_id}/models/{model.model_id}/artifacts"
    for path in below(folder, attacker, own_run):
        # A strange name in one's own folder is taken: where it lies is looked at below.
        attacker.call("PUT", f"{ARTIFACTS}/{path}/MLmodel", data=b"hostile")
        attacker.call("PUT", f"{ARTIFACTS}/{path}/new", data=b"hostile")
        attacker.call("DELETE", f"{ARTIFACTS}/{path}/MLmodel")
        read = attacker.call("GET", f"{ARTIFACTS}/{path}/MLmodel")
        assert b"flavors" not in read.content, path
        listed = attacker.call("GET", ARTIFACTS, params={"path": path})
        assert ONLY_THERE not in listed.text, path
    for path in ("/etc/passwd", "file:///etc/passwd", "%2fetc%2fpasswd", "....//....//etc/passwd"):
        answer = attacker.call("GET", f"{ARTIFACTS}/{path}")
        assert "root:" not in answer.text, path
    assert files_of(mlflow_server) == before


def test_an_experiment_whose_place_is_somebody_elses_opens_nothing(
    mlflow_server: MlflowServer, victim: JobUser, model: LoggedModel, attacker: Attacker
):
    before = files_of(mlflow_server)
    for number, place in enumerate(
        (
            "mlflow-artifacts:/",
            f"mlflow-artifacts:/{victim.experiment_id}",
            f"mlflow-artifacts:/{victim.experiment_id}/models/{model.model_id}/artifacts",
            f"mlflow-artifacts://{victim.experiment_id}",
            "file:///etc",
            str(mlflow_server.home),
        )
    ):
        name = f"borrowed-{uuid.uuid4().hex[:6]}-{number}"
        made = attacker.post("experiments/create", {"name": name, "artifact_location": place})
        if made.status_code >= 400:
            continue
        experiment = made.json()["experiment_id"]
        run = attacker.post("runs/create", {"experiment_id": experiment}).json()["run"]["info"]
        for path in ("", "..", "MLmodel", f"models/{model.model_id}/artifacts"):
            asked = {"run_id": run["run_id"], "path": path}
            listed = attacker.call("GET", f"{API}/artifacts/list", params=asked)
            assert ONLY_THERE not in listed.text, (place, path, listed.text)
            got = attacker.call("GET", "/get-artifact", params={**asked, "run_uuid": run["run_id"]})
            assert got.status_code >= 400 or b"flavors" not in got.content, (place, path)
        assert (
            attacker.call(
                "GET",
                "/get-artifact",
                params={
                    "run_uuid": run["run_id"],
                    "path": "passwd",
                },
            ).status_code
            >= 400
        )
    assert files_of(mlflow_server) == before


def test_nothing_of_anothers_model_is_changed_or_registered_anew(
    mlflow_server: MlflowServer, victim: JobUser, model: LoggedModel, attacker: Attacker
):
    registry = mlflow_server.registry
    before = files_of(mlflow_server)
    tag = {"key": "hostile", "value": "1"}
    calls = (
        ("POST", "registered-models/rename", {"name": "victims-model", "new_name": "mine"}),
        ("DELETE", "registered-models/delete", {"name": "victims-model"}),
        ("PATCH", "registered-models/update", {"name": "victims-model", "description": "x"}),
        ("POST", "registered-models/set-tag", {"name": "victims-model", **tag}),
        (
            "POST",
            "registered-models/alias",
            {"name": "victims-model", "alias": "x", "version": "1"},
        ),
        ("POST", "model-versions/set-tag", {"name": "victims-model", "version": "1", **tag}),
        ("DELETE", "model-versions/delete", {"name": "victims-model", "version": "1"}),
        ("PATCH", f"logged-models/{model.model_id}", {"status": "LOGGED_MODEL_UPLOAD_FAILED"}),
        ("PATCH", f"logged-models/{model.model_id}/tags", {"tags": [tag]}),
        ("DELETE", f"logged-models/{model.model_id}", {}),
        ("POST", "model-versions/create", {"name": "victims-model", "source": "models:/m-1"}),
        ("POST", "experiments/delete", {"experiment_id": victim.experiment_id}),
        ("POST", "runs/create", {"experiment_id": victim.experiment_id}),
        ("POST", "runs/delete", {"run_id": model.run_id}),
    )
    for method, path, body in calls:
        answer = attacker.call(method, f"{API}/{path}", json=body)
        assert answer.status_code in (400, 401, 403, 404, 405), (path, answer.text)
    version = registry.list_models()
    assert [each.name for each in version if each.name == "mine"] == []
    (again,) = ready_models(registry, victim.attempt)
    assert again == model
    assert files_of(mlflow_server) == before


def test_users_and_their_rights_are_the_administrators(
    mlflow_server: MlflowServer, victim: JobUser, attacker: Attacker
):
    own = attacker.user.name
    calls = (
        ("POST", "/api/2.0/mlflow/users/create", {"username": "mallory", "password": "p" * 20}),
        ("PATCH", "/api/2.0/mlflow/users/update-admin", {"username": own, "is_admin": True}),
        (
            "PATCH",
            "/api/2.0/mlflow/users/update-password",
            {"username": victim.name, "password": "p" * 20},
        ),
        ("DELETE", "/api/2.0/mlflow/users/delete", {"username": victim.name}),
        (
            "POST",
            "/api/3.0/mlflow/users/permissions/grant",
            {
                "username": own,
                "resource_type": "experiment",
                "resource_id": victim.experiment_id,
                "permission": "MANAGE",
            },
        ),
    )
    for method, path, body in calls:
        answer = attacker.call(method, path, json=body)
        assert answer.status_code in (400, 401, 403, 404, 405), (path, answer.text)
    names = mlflow_server.registry.user_names()
    assert "mallory" not in names and victim.name in names


def test_a_model_that_bears_anothers_tag_is_not_that_jobs_model(
    mlflow_server: MlflowServer, victim: JobUser, model: LoggedModel, attacker: Attacker
):
    """The tag is what a job's models are found by; anybody can write it on a model of his own."""
    forged = attacker.log_model(victim.attempt)
    registry = mlflow_server.registry
    found = registry.logged_models(victim.attempt)
    assert {each.model_id for each in found} == {model.model_id, forged}
    # What the end of a job goes by: where it lies.
    own = registry.experiments_of(victim.name)
    assert own == {victim.experiment_id}
    assert [each.model_id for each in found if each.experiment_id in own] == [model.model_id]


@pytest.mark.parametrize("bound", ["MODEL_MAX_FILES", "MODEL_MAX_BYTES", "MODEL_MAX_DEPTH"])
def test_a_model_of_too_many_files_or_bytes_or_folders_is_not_fetched(
    mlflow_server: MlflowServer,
    attacker: Attacker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
):
    attempt = f"{uuid.uuid4()}/1"
    model_id = attacker.log_model(attempt)
    place = f"{attacker.user.experiment_id}/models/{model_id}/artifacts"
    for path in ("one", "two", "a/b/c/three"):
        attacker.put(f"{place}/{path}", b"0123456789")
    registry = mlflow_server.registry
    (logged,) = ready_models(registry, attempt)
    version = registry.register_logged_model(f"bomb-{bound}", logged, tags={})
    registry.download_model(version, tmp_path / "whole")
    assert len([path for path in (tmp_path / "whole").rglob("*") if path.is_file()]) == 4
    monkeypatch.setattr(mlflow_client, bound, 2)
    with pytest.raises(RegistryRefused):
        registry.download_model(version, tmp_path / "model")
