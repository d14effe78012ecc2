"""From an upload, in any of its forms, to one `Submission`; names everything that is wrong.

`upload_bodies` reads the fields out of the body, `upload_fields` checks what is in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from registry.names import experiment_name_problem, model_name_problem
from training.api.upload_bodies import edit_fields, form_fields, json_fields
from training.api.upload_fields import LIMIT_FIELDS, FieldCheck, UploadLimits
from training.api.upload_problems import FORM_HINT, UnsupportedUpload
from training.limits import JobLimits
from training.states import Network, Priority

JSON_FIELDS = frozenset(
    {
        "script_name",
        "script_content",
        "script_encoding",
        "experiment_name",
        "model_name",
        "requirements",
        "environment_vars",
        "timeout",
        "tags",
        "priority",
        "network",
        *LIMIT_FIELDS,
        "python_version",
    }
)
FORM_FIELDS = (JSON_FIELDS - {"script_content", "script_encoding"}) | {"script"}
EDITABLE_FIELDS = frozenset(
    {
        *("environment_vars", "requirements", "timeout", "tags", "network", "python_version"),
        *LIMIT_FIELDS,
    }
)


@dataclass(frozen=True)
class Submission:
    """What somebody wants to be run; every value is checked."""

    script_name: str
    script: str
    experiment_name: str
    model_name: str
    requirements: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    timeout: int
    tags: tuple[tuple[str, str], ...]
    network: Network
    limits: JobLimits
    priority: Priority = Priority.NORMAL
    python_version: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edits:
    """What a rerun changes; None leaves a thing as it was."""

    requirements: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] | None = None
    timeout: int | None = None
    tags: tuple[tuple[str, str], ...] | None = None
    network: Network | None = None
    limits: Mapping[str, float] | None = None
    python_version: str | None = None


def parse_upload(body: bytes, content_type: str, *, limits: UploadLimits) -> Submission:
    """From a request's body to a `Submission`. Raises UploadRejected with all that is wrong."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _checked(form_fields(body, content_type), known=FORM_FIELDS, limits=limits)
    # curl says "urlencoded" when nobody told it that the body is JSON.
    if media_type in ("", "application/json", "text/plain") or body.lstrip()[:1] == b"{":
        fields, warnings = json_fields(body)
        return _checked(fields, known=JSON_FIELDS, limits=limits, warnings=warnings)
    raise UnsupportedUpload(
        f"A body of type {media_type} cannot be read; send JSON or multipart/form-data.",
        hint=FORM_HINT,
    )


def submission_of(fields: Mapping[str, Any], *, limits: UploadLimits) -> Submission:
    """From the fields of an upload, as JSON has them, to a `Submission`.

    Raises UploadRejected with all that is wrong.
    """
    return _checked(fields, known=JSON_FIELDS, limits=limits)


def parse_edits(
    body: bytes,
    content_type: str,
    *,
    variables: Mapping[str, str],
    tags: Mapping[str, str],
    limits: UploadLimits,
) -> Edits:
    """From the body of a rerun, a JSON merge patch (RFC 7396), to what it changes.

    `variables` and `tags` are those of the job that runs again: names that are sent are set, null
    removes one, all others stay. All else is replaced. Checked like an upload.
    Raises UploadRejected with all that is wrong.
    """
    fields = edit_fields(body, content_type)
    merged = dict(fields)
    for name, before in (("environment_vars", variables), ("tags", tags)):
        if isinstance(fields.get(name), dict):
            both = {**before, **fields[name]}
            merged[name] = {key: value for key, value in both.items() if value is not None}
    check = FieldCheck(merged, limits)
    check.unknown_fields(EDITABLE_FIELDS)
    edits = Edits(
        requirements=check.requirements() if "requirements" in fields else None,
        environment=check.environment() if "environment_vars" in fields else None,
        timeout=check.timeout() if "timeout" in fields else None,
        tags=check.tags() if "tags" in fields else None,
        network=check.network() if "network" in fields else None,
        limits=check.limits([name for name in LIMIT_FIELDS if name in fields]) or None,
        python_version=check.python_version() if "python_version" in fields else None,
    )
    check.raise_if_any()
    return edits


def _checked(
    fields: Mapping[str, Any],
    *,
    known: frozenset[str],
    limits: UploadLimits,
    warnings: tuple[str, ...] = (),
) -> Submission:
    check = FieldCheck(fields, limits)
    check.unknown_fields(known)
    script_name = check.script_name()
    script = check.script_file() if "script" in known else check.script_content()
    stem = PurePosixPath(script_name).stem
    submission = Submission(
        script_name=script_name,
        script=script,
        experiment_name=check.name("experiment_name", stem, experiment_name_problem),
        model_name=check.name("model_name", stem, model_name_problem),
        requirements=check.requirements(),
        environment=check.environment(),
        timeout=check.timeout(),
        tags=check.tags(),
        network=check.network(),
        limits=JobLimits(**check.limits(LIMIT_FIELDS)),
        priority=check.priority(),
        python_version=check.python_version(),
        warnings=warnings,
    )
    check.raise_if_any()
    return submission
