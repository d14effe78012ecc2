"""What the documents of MLflow's REST API say, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

READY = "LOGGED_MODEL_READY"


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
    # Each alias with the version that it names.
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a script logged; a metric has its last value, which may be no number (NaN)."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    # Metrics that were logged at more than one step.
    curves: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Point:
    """One value of a metric, which may be no number (NaN)."""

    step: int
    value: float
    at: datetime


@dataclass(frozen=True)
class Artifact:
    """A file, or a folder, whose size MLflow does not say."""

    path: str
    is_folder: bool
    size_bytes: int | None


def logged_model_in(model: Mapping[str, Any]) -> LoggedModel:
    info = model["info"]
    return LoggedModel(
        model_id=info["model_id"],
        run_id=info.get("source_run_id", ""),
        experiment_id=str(info["experiment_id"]),
        artifact_uri=info["artifact_uri"],
        ready=info["status"] == READY,
        created_at=_moment(info["creation_timestamp_ms"]),
    )


def version_in(version: Mapping[str, Any]) -> ModelVersion:
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
        tags=tags_in(version),
        aliases=tuple(version.get("aliases", [])),
    )


def registered_model_in(
    model: Mapping[str, Any], *, latest: ModelVersion | None
) -> RegisteredModel:
    return RegisteredModel(
        name=model["name"],
        description=model.get("description", ""),
        tags=tags_in(model),
        latest_versions=(latest,) if latest else (),
        created_at=_moment(model["creation_timestamp"]),
        updated_at=_moment(model["last_updated_timestamp"]),
        aliases=aliases_in(model),
    )


def newest_version_in(model: Mapping[str, Any]) -> ModelVersion | None:
    """MLflow names the newest version of each stage; stages are given up, yet may have been set."""
    versions = [version_in(version) for version in model.get("latest_versions", [])]
    return max(versions, key=lambda version: int(version.version), default=None)


def aliases_in(model: Mapping[str, Any]) -> dict[str, str]:
    return {item["alias"]: str(item["version"]) for item in model.get("aliases", [])}


def run_in(run: Mapping[str, Any]) -> Run:
    info, data = run["info"], run.get("data", {})
    return Run(
        run_id=info["run_id"],
        name=info.get("run_name", ""),
        experiment_id=str(info.get("experiment_id", "")),
        status=info.get("status", ""),
        metrics={item["key"]: _number(item.get("value")) for item in data.get("metrics", [])},
        parameters={item["key"]: item.get("value", "") for item in data.get("params", [])},
        tags=tags_in(data),
        curves=frozenset(
            item["key"] for item in data.get("metrics", []) if int(item.get("step", 0)) > 0
        ),
    )


def point_in(point: Mapping[str, Any]) -> Point:
    return Point(
        step=int(point.get("step", 0)),
        value=_number(point.get("value")),
        at=_moment(point["timestamp"]),
    )


def artifact_in(entry: Mapping[str, Any]) -> Artifact:
    is_folder = bool(entry.get("is_dir"))
    size = None if is_folder else int(entry.get("file_size") or 0)
    return Artifact(path=str(entry["path"]), is_folder=is_folder, size_bytes=size)


def tags_in(document: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in document.get("tags", [])}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As MLflow takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _model_id(source: str) -> str:
    """MLflow leaves `model_id` empty in its answers; the source has it."""
    name = source.rpartition("/")[2] if source.startswith("models:/") else ""
    return name if name.startswith("m-") else ""


def _number(value: Any) -> float:
    """JSON has no NaN and no infinity: MLflow writes their names."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _moment(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
