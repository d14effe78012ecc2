"""Why an upload is not taken; the words about single fields are with those who read them."""

from http import HTTPStatus

from rest_framework.exceptions import APIException

# How many of many fields are named, and how much of a name is shown.
FIELDS_NAMED = 20
FIELD_NAME_SHOWN = 80
FORM_HINT = (
    "Send the script as a file: curl -F script=@train.py -F experiment_name=my_experiment "
    "-F model_name=my_model -F requirements=scikit-learn <address>/mlops/training/upload"
)


class UploadRejected(APIException):
    """The upload cannot be taken; `errors` names each field with a sentence and a hint."""

    status_code = HTTPStatus.BAD_REQUEST
    default_code = "invalid_upload"

    def __init__(
        self, detail: str, *, errors: list[dict[str, str]] | None = None, hint: str = ""
    ) -> None:
        super().__init__(detail)
        self.errors = errors or []
        self.hint = hint


class UnsupportedUpload(UploadRejected):
    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    default_code = "unsupported_media_type"
