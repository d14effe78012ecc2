"""What the API says of registered models: the contract's fields."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from registry.mlflow_client import ModelVersion, RegisteredModel
from registry.names import model_name_problem

# MLflow 2.9 gave stages up; the contract still names them, with MLflow's own word for "none".
NO_STAGE = "None"
RESERVED_TAGS = ("mlops.", "mlflow.")


def utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_model_name(name: str) -> None:
    problem = model_name_problem(name)
    if problem:
        raise serializers.ValidationError(problem)


class RegisterSerializer(serializers.Serializer):
    """What to register."""

    model_name = serializers.CharField(
        help_text="Registered under this name; made when it is new.",
        validators=[_check_model_name],
        trim_whitespace=False,
    )
    run_id = serializers.RegexField(
        r"^[\w.-]{1,64}$",
        help_text="The MLflow run that logged the model.",
        error_messages={
            "invalid": "This is not the id of an MLflow run: 32 hexadecimal digits, as in a job's "
            "run_id."
        },
    )
    description = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=5000,
        default="",
        help_text="Kept with the version.",
    )
    tags = serializers.DictField(
        child=serializers.CharField(max_length=5000, allow_blank=True),
        required=False,
        help_text="Kept with the version. Names that begin with `mlops.` or `mlflow.` are refused.",
        error_messages={"not_a_dict": 'Expected names with texts, such as {"team": "growth"}.'},
    )

    def validate_tags(self, tags: dict[str, str]) -> dict[str, str]:
        own = [name for name in tags if name.startswith(RESERVED_TAGS)]
        if own:
            sentence = "Names that begin with mlops. or mlflow. are the platform's."
            raise serializers.ValidationError(dict.fromkeys(own, sentence))
        return tags


class RegisteredSerializer(serializers.Serializer):
    """The version that was made."""

    model_name = serializers.CharField(help_text="As asked for.")
    version = serializers.CharField(help_text="The new version's number.")
    run_id = serializers.CharField(help_text="As asked for.")
    status = serializers.CharField(help_text="Always `registered`.")
    created_at = serializers.DateTimeField(help_text="When the version was made, UTC.")


class ModelVersionSerializer(serializers.Serializer):
    """One version of a registered model."""

    name = serializers.CharField(help_text="The model's name.")
    version = serializers.CharField(help_text="Its number, counted from 1.")
    stage = serializers.CharField(help_text="Always `None`: MLflow has given stages up.")
    run_id = serializers.CharField(help_text="The MLflow run that logged it.")
    created_at = serializers.DateTimeField(help_text="When the version was made, UTC.")
    updated_at = serializers.DateTimeField(help_text="When the version was last changed, UTC.")


class RegisteredModelSerializer(serializers.Serializer):
    """A registered model and its newest version."""

    name = serializers.CharField(help_text="The model's name.")
    description = serializers.CharField(
        help_text="What was written about the model, else about its newest version; may be empty."
    )
    tags = serializers.DictField(
        child=serializers.CharField(),
        help_text="Of the newest version and of the model; the model's own win.",
    )
    latest_versions = ModelVersionSerializer(
        many=True, help_text="A list of the newest version; empty when there is none."
    )
    created_at = serializers.DateTimeField(help_text="When the model was first registered, UTC.")
    updated_at = serializers.DateTimeField(help_text="When the model last changed, UTC.")


def registered_document(version: ModelVersion) -> dict[str, Any]:
    return {
        "model_name": version.name,
        "version": version.version,
        "run_id": version.run_id,
        "status": "registered",
        "created_at": utc(version.created_at),
    }


def model_document(model: RegisteredModel) -> dict[str, Any]:
    """What was written about the model itself wins over what was sent with its newest version."""
    newest = model.latest_versions[0] if model.latest_versions else None
    tags = {**_own_tags(newest.tags if newest else {}), **_own_tags(model.tags)}
    return {
        "name": model.name,
        "description": model.description or (newest.description if newest else ""),
        "tags": tags,
        "latest_versions": [_version_document(version) for version in model.latest_versions],
        "created_at": utc(model.created_at),
        "updated_at": utc(model.updated_at),
    }


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Without those that the platform and MLflow keep for themselves."""
    return {name: value for name, value in tags.items() if not name.startswith(RESERVED_TAGS)}


def _version_document(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "stage": NO_STAGE,
        "run_id": version.run_id,
        "created_at": utc(version.created_at),
        "updated_at": utc(version.updated_at),
    }
