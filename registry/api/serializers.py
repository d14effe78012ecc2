"""What the API says of registered models: the contract's fields."""

from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from registry.mlflow_client import ModelVersion, RegisteredModel
from registry.names import model_name_problem

# MLflow 2.9 gave stages up; the contract still names them, with MLflow's own word for "none".
NO_STAGE = "None"


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
        error_messages={"invalid": "This is not the id of an MLflow run."},
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
        help_text="Kept with the version.",
    )

    def validate_tags(self, tags: dict[str, str]) -> dict[str, str]:
        own = [name for name in tags if name.startswith(("mlops.", "mlflow."))]
        if own:
            raise serializers.ValidationError(f"{own[0]} begins with a prefix of the platform.")
        return tags


class RegisteredSerializer(serializers.Serializer):
    """The version that was made."""

    model_name = serializers.CharField(help_text="As asked for.")
    version = serializers.CharField(help_text="The new version's number.")
    run_id = serializers.CharField(help_text="As asked for.")
    status = serializers.CharField(help_text="`registered`.")
    created_at = serializers.DateTimeField(help_text="UTC.")


class ModelVersionSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="The model's name.")
    version = serializers.CharField(help_text="Its number.")
    stage = serializers.CharField(help_text="`None`: MLflow has given stages up.")
    run_id = serializers.CharField(help_text="The run that logged it.")
    created_at = serializers.DateTimeField(help_text="UTC.")
    updated_at = serializers.DateTimeField(help_text="UTC.")


class RegisteredModelSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="The model's name.")
    description = serializers.CharField(help_text="What somebody wrote about it; may be empty.")
    tags = serializers.DictField(child=serializers.CharField(), help_text="Of the model.")
    latest_versions = ModelVersionSerializer(many=True, help_text="The newest version.")
    created_at = serializers.DateTimeField(help_text="UTC.")
    updated_at = serializers.DateTimeField(help_text="UTC.")


def registered_document(version: ModelVersion) -> dict[str, Any]:
    return {
        "model_name": version.name,
        "version": version.version,
        "run_id": version.run_id,
        "status": "registered",
        "created_at": utc(version.created_at),
    }


def model_document(model: RegisteredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": model.description,
        "tags": dict(model.tags),
        "latest_versions": [_version_document(version) for version in model.latest_versions],
        "created_at": utc(model.created_at),
        "updated_at": utc(model.updated_at),
    }


def _version_document(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "stage": NO_STAGE,
        "run_id": version.run_id,
        "created_at": utc(version.created_at),
        "updated_at": utc(version.updated_at),
    }
