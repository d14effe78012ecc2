"""What pages ask MLflow of models: pages of them, their versions, and the runs these came from.

One call each, however many there are: what a list shows is in the list's own answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.mlflow_documents import (
    Artifact,
    ModelVersion,
    Point,
    RegisteredModel,
    Run,
    artifact_in,
    newest_version_in,
    point_in,
    registered_model_in,
    run_in,
    version_in,
)
from registry.mlflow_errors import ModelNotFound, RegistryRefused, RunNotFound
from registry.mlflow_rest import MlflowRest


@dataclass(frozen=True)
class ModelsPage:
    """Models by name; `after` is what to ask the next page with, empty on the last one."""

    models: tuple[RegisteredModel, ...] = ()
    after: str = ""


@dataclass(frozen=True)
class VersionsPage:
    """Versions of one model, the newest first; `is_last` when there are no older ones."""

    versions: tuple[ModelVersion, ...] = field(default=())
    is_last: bool = True


class Catalog:
    """Every method may raise RegistryUnavailable."""

    def __init__(self, rest: MlflowRest) -> None:
        self._rest = rest

    def models(self, *, text: str = "", after: str = "", limit: int) -> ModelsPage:
        """Those whose name has `text` in it, whatever its case.

        Raises RegistryRefused for an `after` that is none of MLflow's.
        """
        asked = {"max_results": str(limit), "order_by": "name ASC"}
        if text:
            asked["filter"] = f"name ILIKE '%{quoted(text)}%'"
        if after:
            asked["page_token"] = after
        answer = self._rest.get("registered-models/search", asked)
        models = tuple(_model(model) for model in answer.get("registered_models", []))
        return ModelsPage(models, str(answer.get("next_page_token", "")))

    def model(self, name: str) -> RegisteredModel:
        """Raises ModelNotFound."""
        try:
            answer = self._rest.get("registered-models/get", {"name": name})
        except RegistryRefused as error:
            raise ModelNotFound(name) from error
        return _model(answer["registered_model"])

    def versions(self, name: str, *, below: int | None = None, limit: int) -> VersionsPage:
        """The newest ones, of those with a smaller number than `below` where it is given."""
        query = f"name = '{quoted(name)}'"
        if below is not None:
            query += f" AND version_number < {below}"
        asked = {
            "filter": query,
            "max_results": str(limit),
            "order_by": "version_number DESC",
        }
        answer = self._rest.get("model-versions/search", asked)
        versions = tuple(version_in(version) for version in answer.get("model_versions", []))
        return VersionsPage(versions, not answer.get("next_page_token"))

    def run(self, run_id: str) -> Run:
        """Raises RunNotFound."""
        try:
            return run_in(self._rest.get("runs/get", {"run_id": run_id})["run"])
        except RegistryRefused as error:
            raise RunNotFound(run_id) from error

    def curve(self, run_id: str, metric: str, *, points: int) -> list[Point]:
        """A metric by its steps, thinned out by MLflow to about so many. Raises RunNotFound."""
        asked = {"run_ids": run_id, "metric_key": metric, "max_results": str(points)}
        path = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
        try:
            answer = self._rest.call("GET", path, params=asked).json()
        except RegistryRefused as error:
            raise RunNotFound(run_id) from error
        return [point_in(each) for each in answer.get("metrics", [])]

    def artifacts(self, run_id: str) -> list[Artifact]:
        """What lies at the top of a run's artifacts. Raises RunNotFound."""
        try:
            answer = self._rest.get("artifacts/list", {"run_id": run_id})
        except RegistryRefused as error:
            raise RunNotFound(run_id) from error
        return [artifact_in(each) for each in answer.get("files", [])]


def quoted(text: str) -> str:
    """For a filter: MLflow's grammar doubles nothing, so a quote is escaped with a backslash."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _model(model: Mapping[str, Any]) -> RegisteredModel:
    return registered_model_in(model, latest=newest_version_in(model))
