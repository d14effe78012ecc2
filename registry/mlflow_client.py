"""What the platform asks of MLflow, over its REST API.

MLflow itself is never imported here: that takes 1.4 s and 160 MB in every process, and the web
process must not even be able to load a model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

from registry.mlflow_artifacts import ModelFiles
from registry.mlflow_catalog import Catalog, quoted
from registry.mlflow_documents import (
    LoggedModel,
    ModelVersion,
    RegisteredModel,
    aliases_in,
    logged_model_in,
    registered_model_in,
    tag_list,
    tags_in,
    version_in,
)
from registry.mlflow_errors import (
    AliasNotFound,
    ModelNotFound,
    ModelVersionNotFound,
    NoModelInRun,
    NoReadyVersion,
    RegistryRefused,
    RegistryUnavailable,
    RunNotFound,
)
from registry.mlflow_models import AboutModel
from registry.mlflow_rest import MlflowRest

__all__ = [
    "AliasNotFound",
    "LoggedModel",
    "ModelNotFound",
    "ModelRegistry",
    "ModelVersion",
    "ModelVersionNotFound",
    "NoModelInRun",
    "NoReadyVersion",
    "RegisteredModel",
    "RegistryCounts",
    "RegistryRefused",
    "RegistryUnavailable",
    "RunNotFound",
    "model_registry",
]

CALL_SECONDS = 15
PAGE = 200
# The latest ready version is nearly always the latest one.
LATEST_PAGE = 5
ATTEMPT_TAG = "job_attempt"
# MLflow's rights on an experiment that let a user log there.
WRITES = frozenset({"EDIT", "MANAGE"})
OLD_RUN = "RUNNING"


@dataclass(frozen=True)
class RegistryCounts:
    """How much there is in MLflow."""

    registered_models: int
    experiments: int


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
        self._rest = MlflowRest(
            tracking_uri, username=username, password=password, call_seconds=call_seconds
        )
        self._files = ModelFiles(self._rest)
        self.catalog = Catalog(self._rest)

    # -- the whole ---------------------------------------------------------------------------
    def available(self, *, timeout_seconds: float = 1.0) -> bool:
        """Whether MLflow answers, within `timeout_seconds`."""
        return self._rest.answers(timeout_seconds=timeout_seconds)

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
                made = self._rest.post("experiments/create", {"name": name})
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
            found = str(self._rest.post("job-users", wanted).get("experiment_id", ""))
        except RegistryRefused:
            found = ""
        if found:
            return found
        experiment_id = self.ensure_experiment(experiment_name)
        self.create_job_user(username, password, experiment_id)
        return experiment_id

    def create_job_user(self, username: str, password: str, experiment_id: str) -> None:
        """A user who may write to one experiment and see nothing else."""
        self._rest.post("users/create", {"username": username, "password": password})
        grant = {
            "username": username,
            "resource_type": "experiment",
            "resource_id": experiment_id,
            "permission": "EDIT",
        }
        self._rest.call("POST", "/api/3.0/mlflow/users/permissions/grant", json=grant)

    def delete_job_user(self, username: str) -> None:
        """From here on its password opens nothing. A missing user is deleted already."""
        try:
            self._rest.call("DELETE", "/api/2.0/mlflow/users/delete", json={"username": username})
        except RegistryRefused as error:
            if error.mlflow_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def refused_upload(self, username: str) -> str:
        """Why MLflow took no more of what a job sent there, in words; empty when it took it all.

        Also of an MLflow that is not ours, and bounds nothing.
        """
        try:
            answer = self._rest.get("job-uploads", {"username": username})
        except RegistryRefused:
            return ""
        return str(answer.get("refused", ""))

    def user_names(self) -> list[str]:
        """Everybody who may log in. Raises RegistryRefused by an MLflow that has no such list."""
        return [user["username"] for user in self._rest.get("users/list", {}).get("users", [])]

    def experiments_of(self, username: str) -> frozenset[str] | None:
        """Ids of those that a user may write to, given or made by himself.

        None when nobody can say: the user is gone, or this MLflow has no such list. A tag says
        whose something is, and anybody may write one; where it lies, nobody else may write.
        """
        path = "/api/3.0/mlflow/users/permissions/list"
        try:
            answer = self._rest.call("GET", path, params={"username": username}).json()
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
                self._rest.post("runs/delete", {"run_id": run_id})
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
        versions = self._rest.pages("GET", "model-versions/search", asked, "model_versions")
        return (version_in(version) for version in versions)

    def _job_of_version(self, version: ModelVersion) -> str:
        """Empty when no job of ours made it."""
        if version.tags.get("mlops.job_id") or not version.run_id:
            return version.tags.get("mlops.job_id", "")
        try:
            run = self._rest.get("runs/get", {"run_id": version.run_id})["run"]
        except RegistryRefused:
            return ""
        return tags_in(run["data"]).get("job_id", "")

    def end_runs(self, attempt: str, *, succeeded: bool) -> None:
        """Ends the runs that the attempt left open; a killed script cannot."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        status = "FINISHED" if succeeded else "FAILED"
        for run in self._runs_of_attempt(attempt):
            if run["info"]["status"] == OLD_RUN:
                change = {"run_id": run["info"]["run_id"], "status": status, "end_time": now}
                self._rest.post("runs/update", change)

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
            "tags": tag_list(tags),
        }
        return version_in(self._rest.post("model-versions/create", body)["model_version"])

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
        versions = self._versions(f"name = '{quoted(name)}'")
        return next((version for version in versions if _same(version.source, source)), None)

    # -- reading -----------------------------------------------------------------------------
    def list_models(self) -> list[RegisteredModel]:
        return [self._with_latest(model) for model in self._registered_models()]

    def model(self, name: str) -> RegisteredModel:
        """Raises ModelNotFound."""
        try:
            answer = self._rest.get("registered-models/get", {"name": name})
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
            answer = self._rest.get("model-versions/get", {"name": name, "version": version})
        except RegistryRefused as error:
            raise ModelVersionNotFound(name, version) from error
        return version_in(answer["model_version"])

    def aliased(self, name: str, alias: str) -> ModelVersion:
        """The version that the alias names now. Raises AliasNotFound and ModelNotFound."""
        asked = {"name": name, "alias": alias}
        try:
            return version_in(self._rest.get("registered-models/alias", asked)["model_version"])
        except RegistryRefused as error:
            self.model(name)
            raise AliasNotFound(name, alias) from error

    def aliases(self, name: str) -> dict[str, str]:
        """Every alias with the version it names. Raises ModelNotFound."""
        try:
            model = self._rest.get("registered-models/get", {"name": name})["registered_model"]
        except RegistryRefused as error:
            raise ModelNotFound(name) from error
        return aliases_in(model)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Raises ModelVersionNotFound, and RegistryRefused for a name that MLflow keeps."""
        self.version(name, version)
        named = {"name": name, "alias": alias, "version": version}
        self._rest.post("registered-models/alias", named)

    def delete_alias(self, name: str, alias: str) -> None:
        """An alias that is not there is deleted already."""
        path = "/api/2.0/mlflow/registered-models/alias"
        self._rest.call("DELETE", path, json={"name": name, "alias": alias})

    def about(self, version: ModelVersion) -> AboutModel:
        """How a version can be opened, what it takes and of which files it is.

        Raises RegistryRefused for one that was not logged with `log_model`.
        """
        return self._files.about(version)

    def requirements_of(self, version: ModelVersion) -> list[str]:
        """What the model itself says it needs (`requirements.txt`); empty when it says nothing."""
        return self._files.requirements(version)

    def download_model(self, version: ModelVersion, destination: Path) -> None:
        """Every file of the model below `destination`. Raises RegistryRefused."""
        self._files.download(version, destination)

    # -- helpers -----------------------------------------------------------------------------
    def _experiment_named(self, name: str) -> dict[str, Any] | None:
        try:
            answer = self._rest.get("experiments/get-by-name", {"experiment_name": name})
        except RegistryRefused as error:
            if error.mlflow_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return dict(answer["experiment"])

    def _experiment_of_run(self, run_id: str) -> str:
        try:
            run = self._rest.get("runs/get", {"run_id": run_id})["run"]
        except RegistryRefused as error:
            raise RunNotFound(run_id) from error
        return str(run["info"]["experiment_id"])

    def _experiments(self) -> Iterator[dict[str, Any]]:
        body = {"max_results": PAGE, "view_type": "ACTIVE_ONLY"}
        return self._rest.pages("POST", "experiments/search", body, "experiments")

    def _experiment_ids(self) -> list[str]:
        return [str(experiment["experiment_id"]) for experiment in self._experiments()]

    def _runs_of_attempt(self, attempt: str) -> list[dict[str, Any]]:
        body = {
            "experiment_ids": self._experiment_ids(),
            "filter": f"tags.{ATTEMPT_TAG} = '{attempt}'",
            "order_by": ["attributes.start_time DESC"],
            "max_results": PAGE,
        }
        return list(self._rest.pages("POST", "runs/search", body, "runs"))

    def _logged_models(self, query: str, experiments: list[str] | None = None) -> list[LoggedModel]:
        body = {
            "experiment_ids": experiments or self._experiment_ids(),
            "filter": query,
            "max_results": 50,
            "order_by": [{"field_name": "creation_timestamp", "ascending": True}],
        }
        found = self._rest.pages("POST", "logged-models/search", body, "models")
        return [logged_model_in(model) for model in found]

    def _ensure_registered_model(self, name: str) -> None:
        try:
            self._rest.post("registered-models/create", {"name": name})
        except RegistryRefused as error:
            if error.mlflow_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _registered_models(self) -> Iterator[dict[str, Any]]:
        query = {"max_results": PAGE}
        return self._rest.pages("GET", "registered-models/search", query, "registered_models")

    def _versions(self, query: str, *, page: int = PAGE) -> Iterator[ModelVersion]:
        """The newest first."""
        asked = {"filter": query, "max_results": page, "order_by": ["version_number DESC"]}
        found = self._rest.pages("GET", "model-versions/search", asked, "model_versions")
        return (version_in(version) for version in found)

    def _with_latest(self, model: Mapping[str, Any]) -> RegisteredModel:
        latest = next(self._versions(f"name = '{quoted(model['name'])}'"), None)
        return registered_model_in(model, latest=latest)

    def _latest_ready(self, name: str) -> ModelVersion:
        """One call where there is one: predictions without a version wait for it."""
        for version in self._versions(f"name = '{quoted(name)}'", page=LATEST_PAGE):
            if version.status == "READY":
                return version
        self.model(name)
        raise NoReadyVersion(name)


def _same(source: str, wanted: str) -> bool:
    return source.rstrip("/") == wanted
