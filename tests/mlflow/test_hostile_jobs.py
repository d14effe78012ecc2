"""What a job's MLflow user tries against other jobs, asked of MLflow itself and of its folder.

A real server with its users, and with the gate that stands before it (`registry/gate`). What is
denied to a user is denied to the script that has its password, wherever it runs.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from registry import mlflow_artifacts
from registry.mlflow_client import LoggedModel, RegistryRefused
from tests.fixtures.mlflow import FILES, MEGABYTES, MlflowServer
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

    def log_model(self, attempt: str = "") -> str:
        """As `log_model` does, without its imports: a model with one file. Its id."""
        experiment = self.user.experiment_id
        run = self.post("runs/create", {"experiment_id": experiment}).json()["run"]["info"]
        body = {
            "experiment_id": experiment,
            "name": "model",
            "source_run_id": run["run_id"],
            "tags": [{"key": "job_attempt", "value": attempt or self.user.attempt}],
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
    logged = Attacker(user).log_model()
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
    """The tag is what a job's models are found by; the gate lets nobody write another's.

    Where somebody else's MLflow has none, the end of a job goes by where a model lies.
    """
    forged = {
        "experiment_id": attacker.user.experiment_id,
        "name": "model",
        "tags": [{"key": "job_attempt", "value": victim.attempt}],
    }
    assert attacker.post("logged-models", forged).status_code == 403
    registry = mlflow_server.registry
    registry._rest.post("logged-models", forged)
    found = registry.logged_models(victim.attempt)
    assert len(found) == 2 and model in found
    own = registry.experiments_of(victim.name)
    assert own == {victim.experiment_id}
    assert [each for each in found if each.experiment_id in own] == [model]


@pytest.fixture
def colleague(mlflow_server: MlflowServer, victim: JobUser, tmp_path: Path) -> Attacker:
    """A job of the victim's own experiment."""
    return Attacker(JobUser(mlflow_server, "victims", tmp_path))


def writes_to(run: str, model: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every call of MLflow's API that changes a run or a logged model, in every spelling."""
    tag = {"key": "hostile", "value": "1"}
    metric = {"key": "accuracy", "value": 1.0, "timestamp": 1, "step": 0}
    for name in ("run_id", "runId", "run_uuid", "runUuid"):
        for prefix in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow"):
            yield "POST", f"{prefix}/runs/set-tag", {name: run, **tag}
            yield "POST", f"{prefix}/runs/log-metric", {name: run, **metric}
            yield "POST", f"{prefix}/runs/log-parameter", {name: run, **tag}
            yield "POST", f"{prefix}/runs/update", {name: run, "status": "FAILED"}
            yield "POST", f"{prefix}/runs/log-batch", {name: run, "tags": [tag]}
            yield "POST", f"{prefix}/runs/delete-tag", {name: run, "key": "job_attempt"}
    yield "POST", f"{API}/runs/outputs", {"run_id": run, "models": [{"model_id": model}]}
    yield "POST", f"{API}/runs/log-inputs", {"run_id": run, "models": [{"model_id": model}]}
    yield "POST", f"{API}/runs/log-model", {"run_id": run, "model_json": "{}"}
    yield "POST", f"{API}/runs/delete", {"run_id": run}
    yield "POST", f"{API}/traces/link-to-run", {"run_id": run, "trace_ids": ["tr-1"]}
    yield "PATCH", f"{API}/logged-models/{model}", {"model_id": model, "status": 3}
    yield "PATCH", f"{API}/logged-models/{model}/tags", {"tags": [tag]}
    yield "DELETE", f"{API}/logged-models/{model}/tags/job_attempt", {}
    yield "POST", f"{API}/logged-models/{model}/params", {"params": [tag]}
    yield "DELETE", f"{API}/logged-models/{model}", {}


def test_a_job_of_the_same_experiment_reads_and_writes_nothing(
    mlflow_server: MlflowServer, victim: JobUser, model: LoggedModel, colleague: Attacker
):
    experiment = victim.experiment_id
    own = colleague.post("runs/create", {"experiment_id": experiment}).json()["run"]["info"]
    before, run_before = files_of(mlflow_server), described(colleague, model)
    for method, path, body in writes_to(model.run_id, model.model_id):
        # Also beside one's own, wherever MLflow would look first.
        for sent in (body, {"run_id": own["run_id"], **body}, {**body, "run_id": own["run_id"]}):
            if sent is not body and ("run_id" in body or "/logged-models" in path):
                continue
            answer = colleague.call(method, path, json=sent)
            assert answer.status_code == 403, (path, sent, answer.text)
            assert "Only the job that made it may write" in answer.text
    metric = {"key": "accuracy", "value": 1.0, "timestamp": 1, "step": 0}
    for name in ("model_id", "modelId"):
        onto = {**metric, name: model.model_id}
        for call, sent in (
            ("runs/log-metric", {"run_id": own["run_id"], **onto}),
            ("runs/log-batch", {"run_id": own["run_id"], "metrics": [onto]}),
        ):
            assert colleague.post(call, sent).status_code == 403, sent
    for folder in (f"{model.run_id}/artifacts", f"models/{model.model_id}/artifacts"):
        for path in below(f"{experiment}/{folder}", colleague, own["run_id"]):
            for prefix in (ARTIFACTS, ARTIFACTS.replace("/api/", "/ajax-api/")):
                colleague.call("PUT", f"{prefix}/{path}/MLmodel", data=b"hostile")
                colleague.call("DELETE", f"{prefix}/{path}/MLmodel")
    asked = {"run_uuid": model.run_id, "path": "new"}
    sent = colleague.call(
        "POST", "/ajax-api/2.0/mlflow/upload-artifact", params=asked, data=b"hostile"
    )
    assert sent.status_code == 403
    assert described(colleague, model) == run_before
    # Nothing new but what lies in the colleague's own run.
    new = files_of(mlflow_server).items() - before.items()
    assert [path for path, _ in new if own["run_id"] not in path] == []
    assert before.items() <= files_of(mlflow_server).items()
    place = f"{experiment}/models/{model.model_id}/artifacts/{ONLY_THERE}"
    assert colleague.call("GET", f"{ARTIFACTS}/{place}").content == b"flavors"


def described(user: Attacker, model: LoggedModel) -> tuple[Any, Any]:
    """Run and model as MLflow tells them to who may read them."""
    run = user.call("GET", f"{API}/runs/get", params={"run_id": model.run_id})
    logged = user.call("GET", f"{API}/logged-models/{model.model_id}")
    assert run.ok and logged.ok
    return run.json(), logged.json()


def test_a_job_cannot_pass_its_model_off_as_anothers(
    mlflow_server: MlflowServer, victim: JobUser, model: LoggedModel, colleague: Attacker
):
    """Neither as that job's, by its tag, nor as that run's, which a person may register by hand."""
    own = colleague.log_model()
    tag = {"key": "job_attempt", "value": victim.attempt}
    about = {"experiment_id": victim.experiment_id, "name": "model"}
    run = colleague.post("runs/create", about | {"tags": []}).json()["run"]["info"]["run_id"]
    for method, path, body in (
        ("POST", "logged-models", about | {"tags": [tag]}),
        ("POST", "logged-models", about | {"source_run_id": model.run_id}),
        ("POST", "logged-models", about | {"sourceRunId": model.run_id}),
        ("PATCH", f"logged-models/{own}/tags", {"tags": [tag]}),
        ("POST", "runs/create", about | {"tags": [tag]}),
        ("POST", "runs/set-tag", {"run_id": run, **tag}),
        ("POST", "runs/log-batch", {"run_id": run, "tags": [tag]}),
    ):
        answer = colleague.call(method, f"{API}/{path}", json=body)
        assert answer.status_code == 403, (path, body, answer.text)
    assert mlflow_server.registry.logged_models(victim.attempt)[0] == model
    assert mlflow_server.registry.runs_of_attempt(victim.attempt) == []


def test_a_job_cannot_take_away_the_experiment_of_others(victim: JobUser, colleague: Attacker):
    asked = {"experiment_id": victim.experiment_id, "new_name": "mine"}
    for call in ("experiments/update", "experiments/delete", "experiments/restore"):
        assert colleague.post(call, asked).status_code == 403


def test_who_sends_no_good_password_writes_nothing_however_it_is_written(
    mlflow_server: MlflowServer, victim: JobUser
):
    """The gate and MLflow's two halves read the header each in its own way: all or none take it."""
    run = {"experiment_id": victim.experiment_id}
    name, password = victim.name, victim.password
    for header in (
        "",
        "Basic",
        "Bearer x",
        requests.auth._basic_auth_str(name, "wrong"),
        requests.auth._basic_auth_str(name, password).replace("Basic ", "Basic  "),
        requests.auth._basic_auth_str(name, password)[:12] + " ",
        requests.auth._basic_auth_str(f"{name} ", password),
        requests.auth._basic_auth_str(name.upper(), password),
    ):
        answer = requests.post(
            f"{mlflow_server.uri}{API}/runs/create",
            json=run,
            headers={"Authorization": header},
            timeout=CALL_SECONDS,
        )
        assert answer.status_code == 401, header


def test_what_a_job_sends_is_bounded_in_bytes_and_it_is_told_so(
    mlflow_server: MlflowServer, colleague: Attacker
):
    script = f"""
import mlflow, os
with mlflow.start_run():
    for number in range(3):
        open("part", "wb").write(os.urandom({MEGABYTES * 1024 * 1024 // 2 - 65536}))
        mlflow.log_artifact("part", str(number))
        print("sent", number)
"""
    done = colleague.user.run(script)
    assert done.returncode == 1
    assert done.stdout.split("\n")[:2] == ["sent 0", "sent 1"]
    refused = mlflow_server.registry.refused_upload(colleague.user.name)
    assert refused == f"A job may send at most {MEGABYTES} MiB to MLflow."
    assert refused in done.stderr
    kept = [path for path in (mlflow_server.home / "artifacts").rglob("part") if path.is_file()]
    assert len(kept) == 2
    # What says no length is held to the same.
    endless = (b"x" * 1024 * 1024 for _ in range(3))
    run = colleague.post("runs/create", {"experiment_id": colleague.user.experiment_id})
    place = f"{colleague.user.experiment_id}/{run.json()['run']['info']['run_id']}/artifacts"
    assert colleague.call("PUT", f"{ARTIFACTS}/{place}/x", data=endless).status_code == 413
    assert colleague.call("PUT", f"{ARTIFACTS}/{place}/x", data=(b"" for _ in "x")).ok
    mlflow_server.registry.delete_job_user(colleague.user.name)
    assert mlflow_server.registry.refused_upload(colleague.user.name) == ""


def test_what_a_job_sends_is_bounded_in_files_and_folders(
    mlflow_server: MlflowServer, colleague: Attacker
):
    run = colleague.post("runs/create", {"experiment_id": colleague.user.experiment_id})
    place = f"{colleague.user.experiment_id}/{run.json()['run']['info']['run_id']}/artifacts"
    deep = "/".join("d" * 40)
    assert colleague.call("PUT", f"{ARTIFACTS}/{place}/{deep}", data=b"x").status_code == 403
    for number in range(FILES):
        colleague.put(f"{place}/{number}", b"x")
    answer = colleague.call("PUT", f"{ARTIFACTS}/{place}/more", data=b"x")
    assert answer.status_code == 413 and f"at most {FILES} files" in answer.text
    asked = {"username": colleague.user.name}
    assert colleague.call("GET", f"{API}/job-uploads", params=asked).status_code == 403


@pytest.mark.parametrize("bound", ["MODEL_MAX_FILES", "MODEL_MAX_BYTES", "MODEL_MAX_DEPTH"])
def test_a_model_of_too_many_files_or_bytes_or_folders_is_not_fetched(
    mlflow_server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
):
    attacker = Attacker(JobUser(mlflow_server, ATTACKERS, tmp_path))
    model_id = attacker.log_model()
    place = f"{attacker.user.experiment_id}/models/{model_id}/artifacts"
    for path in ("one", "two", "a/b/c/three"):
        attacker.put(f"{place}/{path}", b"0123456789")
    registry = mlflow_server.registry
    (logged,) = ready_models(registry, attacker.user.attempt)
    version = registry.register_logged_model(f"bomb-{bound}", logged, tags={})
    registry.download_model(version, tmp_path / "whole")
    assert len([path for path in (tmp_path / "whole").rglob("*") if path.is_file()]) == 4
    monkeypatch.setattr(mlflow_artifacts, bound, 2)
    with pytest.raises(RegistryRefused):
        registry.download_model(version, tmp_path / "model")
