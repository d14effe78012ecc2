"""What the platform asks of MLflow, over its REST API.

MLflow itself is never imported here: that takes 1.4 s and 160 MB in every process, and the web
process must not even be able to load a model.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from django.conf import settings
from rest_framework.exceptions import APIException

CALL_SECONDS = 15
PAGE = 200
# The latest ready version is nearly always the latest one.
LATEST_PAGE = 5
DOWNLOAD_BLOCK_BYTES = 1024 * 1024
ARTIFACT_SCHEME = "mlflow-artifacts:"
READY = "LOGGED_MODEL_READY"
ATTEMPT_TAG = "job_attempt"
# What a model may be when it is fetched for its server: a job can store anything in its name.
MODEL_MAX_FILES, MODEL_MAX_DEPTH, MODEL_MAX_BYTES = 10_000, 32, 8 * 1024**3
# MLflow's rights on an experiment that let a user log there.
WRITES = frozenset({"EDIT", "MANAGE"})
OLD_RUN = "RUNNING"


class RegistryUnavailable(APIException):
    """MLflow does not answer; the same call may succeed later."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "registry_unavailable"
    default_detail = "MLflow does not answer."
    hint = "Try again in a moment; GET /mlops/status says whether it is back."
    # What `Retry-After` says, in seconds.
    wait = 5


class RegistryRefused(APIException):
    """MLflow answered that it will not do this; `detail` has its words."""

    status_code = HTTPStatus.BAD_REQUEST
    default_code = "registry_refused"

    def __init__(self, detail: str, *, mlflow_code: str = "") -> None:
        super().__init__(detail)
        self.mlflow_code = mlflow_code


class RunNotFound(APIException):
    status_code = HTTPStatus.NOT_FOUND
    default_code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} not found")


class NoModelInRun(APIException):
    status_code = HTTPStatus.BAD_REQUEST
    default_code = "no_model_in_run"
    hint = 'Log one in the run: mlflow.<flavour>.log_model(model, "model").'

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} has no logged model that is ready")


class ModelNotFound(APIException):
    status_code = HTTPStatus.NOT_FOUND
    default_code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"Model {name} not found")


class ModelVersionNotFound(APIException):
    status_code = HTTPStatus.NOT_FOUND
    default_code = "model_version_not_found"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model {name} version {version} not found")


class AliasNotFound(APIException):
    status_code = HTTPStatus.NOT_FOUND
    default_code = "alias_not_found"

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"Model {name} has no alias {alias}")
        self.hint = f"GET /mlops/models/{name}/aliases lists what there is."


class NoReadyVersion(APIException):
    status_code = HTTPStatus.NOT_FOUND
    default_code = "model_version_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"Model {name} has no version that is ready")


@dataclass(frozen=True)
class RegistryCounts:
    """How much there is in MLflow."""

    registered_models: int
    experiments: int


@dataclass(frozen=True)
class LoggedModel:
    """What `log_model` left in MLflow; `ready` when every file of it is stored."""

    model_id: str
    run_id: str
    experiment_id: str
    artifact_uri: str
    ready: bool
    created_at: datetime


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model. Times are UTC."""

    name: str
    version: str
    run_id: str
    model_id: str
    status: str
    description: str
    source: str
    created_at: datetime
    updated_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model with its newest version, if it has any."""

    name: str
    description: str
    tags: Mapping[str, str]
    latest_versions: tuple[ModelVersion, ...]
    created_at: datetime
    updated_at: datetime


@cache
def model_registry() -> "ModelRegistry":
    """The registry that the settings name."""
    return ModelRegistry(
        tracking_uri=settings.MLFLOW_TRACKING_URI,
        username=settings.MLFLOW_ADMIN_USERNAME,
        password=settings.MLFLOW_ADMIN_PASSWORD,
        call_seconds=settings.MLFLOW_CALL_SECONDS,
    )


class ModelRegistry:
    """MLflow, as its administrator. Every method may raise RegistryUnavailable."""

    def __init__(
        self,
        *,
        tracking_uri: str,
        username: str,
        password: str,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._credentials = (username, password)
        self._call_seconds = call_seconds
        self._local = threading.local()
        self._silent = False
        self._turn = threading.Lock()

    # -- the whole ---------------------------------------------------------------------------
    def available(self, *, timeout_seconds: float = 1.0) -> bool:
        """Whether MLflow answers, within `timeout_seconds`."""
        try:
            answer = requests.get(f"{self._uri}/health", timeout=timeout_seconds)
        except requests.RequestException:
            return False
        return answer.ok

    def counts(self) -> RegistryCounts:
        models = sum(1 for _ in self._registered_models())
        experiments = sum(1 for _ in self._experiments())
        return RegistryCounts(registered_models=models, experiments=experiments)

    # -- experiments and job users -----------------------------------------------------------
    def ensure_experiment(self, name: str) -> str:
        """The id of the active experiment of that name, made when there is none.

        Raises RegistryRefused for a name that belongs to a deleted experiment.
        """
        found = self._experiment_named(name)
        if found is None:
            try:
                made = self._post("experiments/create", {"name": name})
            except RegistryRefused as error:
                found = self._experiment_named(name)
                if error.mlflow_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
            else:
                return str(made["experiment_id"])
        if found["lifecycle_stage"] != "active":
            raise RegistryRefused(f"The experiment {name} was deleted in MLflow.")
        return str(found["experiment_id"])

    def open_job_user(self, username: str, password: str, experiment_name: str) -> str:
        """The id of the experiment, which is made when there is none, and a user who may write to
        it and see nothing else. Raises as `ensure_experiment` does.

        In one call, where the experiment is there; an MLflow that is not ours knows no such call.
        """
        wanted = {"username": username, "password": password, "experiment_name": experiment_name}
        try:
            found = str(self._post("job-users", wanted).get("experiment_id", ""))
        except RegistryRefused:
            found = ""
        if found:
            return found
        experiment_id = self.ensure_experiment(experiment_name)
        self.create_job_user(username, password, experiment_id)
        return experiment_id

    def create_job_user(self, username: str, password: str, experiment_id: str) -> None:
        """A user who may write to one experiment and see nothing else."""
        self._post("users/create", {"username": username, "password": password})
        grant = {
            "username": username,
            "resource_type": "experiment",
            "resource_id": experiment_id,
            "permission": "EDIT",
        }
        self._call("POST", "/api/3.0/mlflow/users/permissions/grant", json=grant)

    def delete_job_user(self, username: str) -> None:
        """From here on its password opens nothing. A missing user is deleted already."""
        try:
            self._call("DELETE", "/api/2.0/mlflow/users/delete", json={"username": username})
        except RegistryRefused as error:
            if error.mlflow_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def refused_upload(self, username: str) -> str:
        """Why MLflow took no more of what a job sent there, in words; empty when it took it all.

        Also of an MLflow that is not ours, and bounds nothing.
        """
        try:
            answer = self._get("job-uploads", {"username": username})
        except RegistryRefused:
            return ""
        return str(answer.get("refused", ""))

    def user_names(self) -> list[str]:
        """Everybody who may log in. Raises RegistryRefused by an MLflow that has no such list."""
        return [user["username"] for user in self._get("users/list", {}).get("users", [])]

    def experiments_of(self, username: str) -> frozenset[str] | None:
        """Ids of those that a user may write to, given or made by himself.

        None when nobody can say: the user is gone, or this MLflow has no such list. A tag says
        whose something is, and anybody may write one; where it lies, nobody else may write.
        """
        path = "/api/3.0/mlflow/users/permissions/list"
        try:
            answer = self._call("GET", path, params={"username": username}).json()
        except RegistryRefused:
            return None
        granted = [each for each in answer["permissions"] if each["permission"] in WRITES]
        return frozenset(
            str(each["resource_pattern"])
            for each in granted
            if each["resource_type"] == "experiment"
        )

    # -- what a job made ---------------------------------------------------------------------
    def runs_of_attempt(self, attempt: str) -> list[str]:
        """Run ids, the newest first."""
        return [run["info"]["run_id"] for run in self._runs_of_attempt(attempt)]

    def delete_runs_without_model(self, attempt: str) -> int:
        """Deletes the attempt's runs, but for one that a registered model came from.

        MLflow keeps a deleted run out of sight until `mlflow gc`. Returns how many were deleted.
        """
        deleted = 0
        for run_id in self.runs_of_attempt(attempt):
            if not any(self._versions(f"run_id = '{run_id}'")):
                self._post("runs/delete", {"run_id": run_id})
                deleted += 1
        return deleted

    def jobs_with_models(self) -> frozenset[str]:
        """The ids of the jobs that any registered version came from, by us or by hand."""
        found = (self._job_of_version(version) for version in self._every_version())
        return frozenset(job_id for job_id in found if job_id)

    def registered_versions(self) -> frozenset[tuple[str, str]]:
        """Name and version of each."""
        return frozenset((one.name, one.version) for one in self._every_version())

    def _every_version(self) -> Iterator[ModelVersion]:
        asked = {"max_results": PAGE}
        versions = self._pages("GET", "model-versions/search", asked, "model_versions")
        return (_version(version) for version in versions)

    def _job_of_version(self, version: ModelVersion) -> str:
        """Empty when no job of ours made it."""
        if version.tags.get("mlops.job_id") or not version.run_id:
            return version.tags.get("mlops.job_id", "")
        try:
            run = self._get("runs/get", {"run_id": version.run_id})["run"]
        except RegistryRefused:
            return ""
        return _tags(run["data"]).get("job_id", "")

    def end_runs(self, attempt: str, *, succeeded: bool) -> None:
        """Ends the runs that the attempt left open; a killed script cannot."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        status = "FINISHED" if succeeded else "FAILED"
        for run in self._runs_of_attempt(attempt):
            if run["info"]["status"] == OLD_RUN:
                change = {"run_id": run["info"]["run_id"], "status": status, "end_time": now}
                self._post("runs/update", change)

    def logged_models(self, attempt: str) -> list[LoggedModel]:
        """All that the attempt logged or began to log, the oldest first."""
        return self._logged_models(f"tags.{ATTEMPT_TAG} = '{attempt}'")

    # -- registering -------------------------------------------------------------------------
    def register_logged_model(
        self, name: str, model: LoggedModel, *, tags: Mapping[str, str], description: str = ""
    ) -> ModelVersion:
        """Makes the next version of `name`, which is made too when it does not exist.

        Raises RegistryRefused.
        """
        self._ensure_registered_model(name)
        body = {
            "name": name,
            # Not `runs:/…`: MLflow takes it, and the version cannot be loaded.
            "source": f"models:/{model.model_id}",
            "run_id": model.run_id,
            "model_id": model.model_id,
            "description": description,
            "tags": _tag_list(tags),
        }
        return _version(self._post("model-versions/create", body)["model_version"])

    def register_run(
        self, name: str, run_id: str, *, description: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """Registers the model that a run logged last.

        Raises RunNotFound, NoModelInRun, RegistryRefused.
        """
        experiment_id = self._experiment_of_run(run_id)
        query = f"source_run_id = '{run_id}'"
        ready = [model for model in self._logged_models(query, [experiment_id]) if model.ready]
        if not ready:
            raise NoModelInRun(run_id)
        return self.register_logged_model(name, ready[-1], tags=tags, description=description)

    def version_of_logged_model(self, name: str, model: LoggedModel) -> ModelVersion | None:
        """The version that was made from this very model before, if any."""
        source = f"models:/{model.model_id}"
        versions = self._versions(f"name = '{_quoted(name)}'")
        return next((version for version in versions if _same(version.source, source)), None)

    # -- reading -----------------------------------------------------------------------------
    def list_models(self) -> list[RegisteredModel]:
        return [self._with_latest(model) for model in self._registered_models()]

    def model(self, name: str) -> RegisteredModel:
        """Raises ModelNotFound."""
        try:
            answer = self._get("registered-models/get", {"name": name})
        except RegistryRefused as error:
            raise ModelNotFound(name) from error
        return self._with_latest(answer["registered_model"])

    def version(self, name: str, version: str | None) -> ModelVersion:
        """That version, or the latest ready one.

        Raises ModelVersionNotFound, ModelNotFound, NoReadyVersion.
        """
        if version is None:
            return self._latest_ready(name)
        try:
            answer = self._get("model-versions/get", {"name": name, "version": version})
        except RegistryRefused as error:
            raise ModelVersionNotFound(name, version) from error
        return _version(answer["model_version"])

    def aliased(self, name: str, alias: str) -> ModelVersion:
        """The version that the alias names now. Raises AliasNotFound and ModelNotFound."""
        asked = {"name": name, "alias": alias}
        try:
            return _version(self._get("registered-models/alias", asked)["model_version"])
        except RegistryRefused as error:
            self.model(name)
            raise AliasNotFound(name, alias) from error

    def aliases(self, name: str) -> dict[str, str]:
        """Every alias with the version it names. Raises ModelNotFound."""
        try:
            model = self._get("registered-models/get", {"name": name})["registered_model"]
        except RegistryRefused as error:
            raise ModelNotFound(name) from error
        return {item["alias"]: str(item["version"]) for item in model.get("aliases", [])}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Raises ModelVersionNotFound, and RegistryRefused for a name that MLflow keeps."""
        self.version(name, version)
        self._post("registered-models/alias", {"name": name, "alias": alias, "version": version})

    def delete_alias(self, name: str, alias: str) -> None:
        """An alias that is not there is deleted already."""
        path = "/api/2.0/mlflow/registered-models/alias"
        self._call("DELETE", path, json={"name": name, "alias": alias})

    def requirements_of(self, version: ModelVersion) -> list[str]:
        """What the model itself says it needs (`requirements.txt`); empty when it says nothing."""
        path = self._artifact_path(version) / "requirements.txt"
        try:
            text = self._download(path).text
        except RegistryRefused:
            return []
        lines = (line.strip() for line in text.splitlines())
        # The whole of MLflow is a server; what a model needs of it is in the small package.
        return [
            line.replace("mlflow==", "mlflow-skinny==", 1) if line.startswith("mlflow==") else line
            for line in lines
            if line and not line.startswith(("#", "-"))
        ]

    def download_model(self, version: ModelVersion, destination: Path) -> None:
        """Every file of the model below `destination`. Raises RegistryRefused.

        The server's listing is not trusted: a name that would leave `destination` is refused.
        """
        root = self._artifact_path(version)
        named = f"Model {version.name} version {version.version}"
        files = list(islice(self._artifact_files(root), MODEL_MAX_FILES + 1))
        if not files:
            raise RegistryRefused(f"{named} has no files.")
        if len(files) > MODEL_MAX_FILES:
            raise RegistryRefused(f"{named} has more than {MODEL_MAX_FILES} files.")
        left = MODEL_MAX_BYTES
        for path in files:
            relative = path.relative_to(root)
            if ".." in relative.parts or relative.is_absolute():
                raise RegistryRefused(f"The model holds a file with the name {relative}.")
            target = destination.joinpath(*relative.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as handle:
                for block in self._download(path).iter_content(DOWNLOAD_BLOCK_BYTES):
                    left -= len(block)
                    if left < 0:
                        raise RegistryRefused(f"{named} is larger than {MODEL_MAX_BYTES} bytes.")
                    handle.write(block)

    # -- helpers -----------------------------------------------------------------------------
    def _experiment_named(self, name: str) -> dict[str, Any] | None:
        try:
            answer = self._get("experiments/get-by-name", {"experiment_name": name})
        except RegistryRefused as error:
            if error.mlflow_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return dict(answer["experiment"])

    def _experiment_of_run(self, run_id: str) -> str:
        try:
            run = self._get("runs/get", {"run_id": run_id})["run"]
        except RegistryRefused as error:
            raise RunNotFound(run_id) from error
        return str(run["info"]["experiment_id"])

    def _experiments(self) -> Iterator[dict[str, Any]]:
        body = {"max_results": PAGE, "view_type": "ACTIVE_ONLY"}
        return self._pages("POST", "experiments/search", body, "experiments")

    def _experiment_ids(self) -> list[str]:
        return [str(experiment["experiment_id"]) for experiment in self._experiments()]

    def _runs_of_attempt(self, attempt: str) -> list[dict[str, Any]]:
        body = {
            "experiment_ids": self._experiment_ids(),
            "filter": f"tags.{ATTEMPT_TAG} = '{attempt}'",
            "order_by": ["attributes.start_time DESC"],
            "max_results": PAGE,
        }
        return list(self._pages("POST", "runs/search", body, "runs"))

    def _logged_models(self, query: str, experiments: list[str] | None = None) -> list[LoggedModel]:
        body = {
            "experiment_ids": experiments or self._experiment_ids(),
            "filter": query,
            "max_results": 50,
            "order_by": [{"field_name": "creation_timestamp", "ascending": True}],
        }
        found = self._pages("POST", "logged-models/search", body, "models")
        return [_logged_model(model) for model in found]

    def _ensure_registered_model(self, name: str) -> None:
        try:
            self._post("registered-models/create", {"name": name})
        except RegistryRefused as error:
            if error.mlflow_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _registered_models(self) -> Iterator[dict[str, Any]]:
        query = {"max_results": PAGE}
        return self._pages("GET", "registered-models/search", query, "registered_models")

    def _versions(self, query: str, *, page: int = PAGE) -> Iterator[ModelVersion]:
        """The newest first."""
        asked = {"filter": query, "max_results": page, "order_by": ["version_number DESC"]}
        found = self._pages("GET", "model-versions/search", asked, "model_versions")
        return (_version(version) for version in found)

    def _with_latest(self, model: Mapping[str, Any]) -> RegisteredModel:
        latest = next(self._versions(f"name = '{_quoted(model['name'])}'"), None)
        return RegisteredModel(
            name=model["name"],
            description=model.get("description", ""),
            tags=_tags(model),
            latest_versions=(latest,) if latest else (),
            created_at=_moment(model["creation_timestamp"]),
            updated_at=_moment(model["last_updated_timestamp"]),
        )

    def _latest_ready(self, name: str) -> ModelVersion:
        """One call where there is one: predictions without a version wait for it."""
        for version in self._versions(f"name = '{_quoted(name)}'", page=LATEST_PAGE):
            if version.status == "READY":
                return version
        self.model(name)
        raise NoReadyVersion(name)

    def _artifact_path(self, version: ModelVersion) -> PurePosixPath:
        """Where the artifact proxy has the model's files. Raises RegistryRefused."""
        model_id = version.model_id
        if not model_id:
            raise RegistryRefused(
                f"Model {version.name} version {version.version} was not logged with log_model."
            )
        uri = self._get(f"logged-models/{model_id}", {})["model"]["info"]["artifact_uri"]
        if not uri.startswith(ARTIFACT_SCHEME):
            raise RegistryRefused("The model's files are not kept by the MLflow server.")
        return PurePosixPath(uri.removeprefix(ARTIFACT_SCHEME).lstrip("/"))

    def _artifact_files(self, folder: PurePosixPath, *, depth: int = 0) -> Iterator[PurePosixPath]:
        """Raises RegistryRefused for folders in folders in folders."""
        if depth > MODEL_MAX_DEPTH:
            raise RegistryRefused(
                f"The model has more than {MODEL_MAX_DEPTH} folders in each other."
            )
        listing = self._call(
            "GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": str(folder)}
        ).json()
        for entry in listing.get("files", []):
            path = folder / PurePosixPath(entry["path"]).name
            if entry.get("is_dir"):
                yield from self._artifact_files(path, depth=depth + 1)
            else:
                yield path

    def _download(self, path: PurePosixPath) -> requests.Response:
        return self._call("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}", stream=True)

    def _pages(
        self, method: str, path: str, asked: Mapping[str, Any], key: str
    ) -> Iterator[dict[str, Any]]:
        where = "json" if method == "POST" else "params"
        token = ""
        while True:
            body = {**asked, "page_token": token} if token else dict(asked)
            options: dict[str, Any] = {where: body}
            answer = self._call(method, f"/api/2.0/mlflow/{path}", **options).json()
            yield from answer.get(key, [])
            token = answer.get("next_page_token", "")
            if not token:
                return

    def _get(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        answer = self._call("GET", f"/api/2.0/mlflow/{path}", params=dict(params)).json()
        return dict(answer)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._call("POST", f"/api/2.0/mlflow/{path}", json=dict(body)).json())

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Raises RegistryUnavailable (no answer, or a 5xx) and RegistryRefused (a 4xx)."""
        with self._in_turn():
            try:
                answer = self._session().request(
                    method, f"{self._uri}{path}", timeout=self._call_seconds, **options
                )
            except requests.Timeout as error:
                self._silent = True
                raise RegistryUnavailable from error
            except requests.RequestException as error:
                raise RegistryUnavailable from error
            self._silent = False
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RegistryUnavailable
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise _refusal(answer)
        return answer

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """While MLflow is silent, one thread asks whether it is back, and the others do not wait
        with it: a server that hangs would soon hold every thread of the web process.

        Raises RegistryUnavailable.
        """
        if not self._silent:
            yield
            return
        if not self._turn.acquire(blocking=False):
            raise RegistryUnavailable
        try:
            yield
        finally:
            self._turn.release()

    def _session(self) -> requests.Session:
        """One for each thread: requests' sessions are not safe to share."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = self._credentials
            # The environment's proxies and .netrc are for the outside; MLflow is ours.
            self._local.session.trust_env = False
        return self._local.session


def _refusal(answer: requests.Response) -> RegistryRefused:
    try:
        told = answer.json()
    except ValueError:
        told = {}
    detail = str(told.get("message") or f"MLflow answered {answer.status_code}.")
    return RegistryRefused(detail[:500], mlflow_code=str(told.get("error_code", "")))


def _logged_model(model: Mapping[str, Any]) -> LoggedModel:
    info = model["info"]
    return LoggedModel(
        model_id=info["model_id"],
        run_id=info.get("source_run_id", ""),
        experiment_id=str(info["experiment_id"]),
        artifact_uri=info["artifact_uri"],
        ready=info["status"] == READY,
        created_at=_moment(info["creation_timestamp_ms"]),
    )


def _version(version: Mapping[str, Any]) -> ModelVersion:
    source = version.get("source", "")
    return ModelVersion(
        name=version["name"],
        version=str(version["version"]),
        run_id=version.get("run_id", ""),
        model_id=version.get("model_id", "") or _model_id(source),
        status=version.get("status", ""),
        description=version.get("description", ""),
        source=source,
        created_at=_moment(version["creation_timestamp"]),
        updated_at=_moment(version["last_updated_timestamp"]),
        tags=_tags(version),
        aliases=tuple(version.get("aliases", [])),
    )


def _model_id(source: str) -> str:
    """MLflow leaves `model_id` empty in its answers; the source has it."""
    name = source.rpartition("/")[2] if source.startswith("models:/") else ""
    return name if name.startswith("m-") else ""


def _same(source: str, wanted: str) -> bool:
    return source.rstrip("/") == wanted


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in document.get("tags", [])}


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _quoted(name: str) -> str:
    """For a filter: MLflow's grammar doubles nothing, so a quote is escaped with a backslash."""
    return name.replace("\\", "\\\\").replace("'", "\\'")


def _moment(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
