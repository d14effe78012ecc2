"""Why MLflow does not do what the platform asks of it, in the words that users get."""

from http import HTTPStatus

from rest_framework.exceptions import APIException


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
