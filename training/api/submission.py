"""Reads an upload, in any of its forms, into one `Submission`; names everything that is wrong.

Forms: JSON; JSON into which the script was pasted raw (`pasted`); a form with the script as a file.
Whether the script is good Python is not asked here: that is the job's to find out.
"""

import base64
import binascii
import difflib
import io
import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.http import QueryDict
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.utils.datastructures import MultiValueDict
from rest_framework.exceptions import APIException

from registry.names import experiment_name_problem, model_name_problem
from sandbox.build_rules import BuildRules
from training.api.pasted import PasteUnreadable, looks_pasted, read_pasted
from training.api.requirements_check import requirement_problem
from training.limits import Bound, JobLimits
from training.states import Network, Priority

LIMIT_FIELDS = tuple(field.name for field in fields(JobLimits))
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
SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*\.py")
SCRIPT_NAME_MAX = 100
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLES_MAX = 100
VARIABLES_MAX_BYTES = 32 * 1024
RESERVED_PREFIXES = ("MLFLOW_", "MLOPS_")
RESERVED_NAMES = frozenset(
    {"HOME", "PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"}
)
REQUIREMENTS_MAX = 100
TAGS_MAX = 50
TAG_NAME_MAX = 250
TAG_VALUE_MAX = 5000
RESERVED_TAGS = ("mlflow.", "mlops.")
RESERVED_TAG_NAMES = frozenset({"job_id", "job_attempt"})
# What MLflow keeps as the name of a tag; it would refuse others only after the training.
TAG_NAME = re.compile(r"[/\w.\- :]+")
BASE64 = re.compile(r"^[A-Za-z0-9+/\r\n]+={0,2}\s*$")
BASE64_MIN_CHARACTERS = 24
NOT_IN_SCRIPTS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
REPEATABLE = frozenset({"requirements", "environment_vars", "tags"})
UNKNOWN_FIELDS_NAMED = 20
# How many problems are told in the sentence too, for a client that reads nothing but `detail`.
ERRORS_TOLD = 5
FIELD_NAME_SHOWN = 80
WHOLE_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
DECIMAL_NUMBER = re.compile(r"\s*[0-9]{1,9}\.[0-9]{1,9}\s*")
NUMBERS = ("timeout", *LIMIT_FIELDS)
# `int` refuses thousands of digits with an error that looks like broken JSON.
INTEGER_DIGITS = 18
FORM_HINT = (
    "Send the script as a file: curl -F script=@train.py -F experiment_name=my_experiment "
    "-F model_name=my_model -F requirements=scikit-learn <address>/mlops/training/upload"
)
EDITS_HINT = 'Send nothing, or what is to change: {"timeout": 600}.'
PASTED_WARNING = "script_content was not valid JSON; it was taken raw, exactly as pasted"


@dataclass(frozen=True)
class UploadLimits:
    """What the operator allows. `timeout` has `minimum`, `default` and `maximum` in seconds,
    `network` has `default` and `maximum`, `job` a bound for each field of `JobLimits`; of `pythons`
    the first is the default."""

    script_max_bytes: int
    allow_urls: bool
    timeout: Mapping[str, int]
    network: Mapping[str, str]
    job: Mapping[str, Bound]
    packages: BuildRules = BuildRules()
    pythons: tuple[str, ...] = ("3.11",)


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


def parse_upload(body: bytes, content_type: str, *, limits: UploadLimits) -> Submission:
    """From a request's body to a `Submission`. Raises UploadRejected with all that is wrong."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _checked(_form_fields(body, content_type), known=FORM_FIELDS, limits=limits)
    # curl says "urlencoded" when nobody told it that the body is JSON.
    if media_type in ("", "application/json", "text/plain") or body.lstrip()[:1] == b"{":
        fields, warnings = _json_fields(body)
        return _checked(fields, known=JSON_FIELDS, limits=limits, warnings=warnings)
    raise UnsupportedUpload(
        f"A body of type {media_type} cannot be read; send JSON or multipart/form-data.",
        hint=FORM_HINT,
    )


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
    fields = _edit_fields(body, content_type)
    merged = dict(fields)
    for name, before in (("environment_vars", variables), ("tags", tags)):
        if isinstance(fields.get(name), dict):
            both = {**before, **fields[name]}
            merged[name] = {key: value for key, value in both.items() if value is not None}
    check = _Check(merged, limits)
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


def _edit_fields(body: bytes, content_type: str) -> dict[str, Any]:
    if not body.strip():
        return {}
    if content_type.lower().startswith("multipart/"):
        raise UnsupportedUpload("A form cannot be read here; send JSON.", hint=EDITS_HINT)
    try:
        return _object(_loads(body.decode()))
    except UnicodeDecodeError:
        raise UploadRejected("The body is not UTF-8 text.", hint=EDITS_HINT) from None
    except ValueError as error:
        raise UploadRejected(f"The body is not JSON: {error}.", hint=EDITS_HINT) from None


# -- the forms -----------------------------------------------------------------------------------
def _json_fields(body: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise UploadRejected("The body is not UTF-8 text.", hint=FORM_HINT) from None
    try:
        fields = _loads(text)
    except ValueError as error:
        return _pasted_fields(text, error)
    return _object(fields), ()


def _pasted_fields(text: str, error: ValueError) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`script_encoding` is kept: what `base64` prints has lines, and can be pasted too."""
    if not looks_pasted(text):
        raise UploadRejected(f"The body is not JSON: {error}.", hint=FORM_HINT) from None
    try:
        pasted = read_pasted(text)
    except PasteUnreadable as unreadable:
        raise UploadRejected(f"{unreadable} ({error})", hint=FORM_HINT) from None
    fields = _object(_loads(pasted.rest))
    return {**fields, "script_content": pasted.script}, (PASTED_WARNING,)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UploadRejected("The body must be a JSON object.", hint=FORM_HINT)
    return value


def _loads(text: str) -> Any:
    """JSON with nothing lost. Raises ValueError when it is not JSON, UploadRejected otherwise."""
    repeated: list[str] = []

    def pairs_to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            repeated.extend(_repeated(name for name, _ in pairs))
        return made

    try:
        value = json.loads(text, object_pairs_hook=pairs_to_object, parse_int=_integer)
    except RecursionError:
        raise UploadRejected("The body is nested too deeply.", hint=FORM_HINT) from None
    try:
        # JSON can spell half of a surrogate pair; no file, database or variable can hold one.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UploadRejected("The body holds half of a surrogate pair.", hint=FORM_HINT) from None
    if repeated:
        raise _repeated_fields(repeated)
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= INTEGER_DIGITS else float(digits)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _repeated_fields(names: list[str]) -> UploadRejected:
    """One of two values would be lost, and with a pasted script the wrong one."""
    shown = list(dict.fromkeys(name[:FIELD_NAME_SHOWN] for name in names))[:UNKNOWN_FIELDS_NAMED]
    detail = "This name comes more than once."
    errors = [{"field": name, "detail": detail, "hint": "Send it once."} for name in shown]
    return UploadRejected(
        f"Sent more than once: {', '.join(shown)}.", errors=errors, hint=FORM_HINT
    )


def _form_fields(body: bytes, content_type: str) -> dict[str, Any]:
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    try:
        parser = MultiPartParser(meta, io.BytesIO(body), [MemoryFileUploadHandler()])
        values, files = parser.parse()
    except (MultiPartParserError, SuspiciousOperation) as error:
        raise UploadRejected(f"The form cannot be read: {error}", hint=FORM_HINT) from None
    _refuse_misplaced(values, files)
    fields: dict[str, Any] = {name: values.get(name) for name in values}
    for name in ("environment_vars", "tags"):
        if name in values:
            fields[name] = _form_pairs(values.getlist(name))
    if "requirements" in values:
        fields["requirements"] = _form_list(values.getlist("requirements"))
    fields |= {name: _form_number(fields[name]) for name in NUMBERS if name in fields}
    script = files.get("script")
    if isinstance(script, UploadedFile):
        fields["script"] = script.read()
        if not fields.get("script_name"):
            fields["script_name"] = script.name
    return fields


def _refuse_misplaced(values: QueryDict, files: MultiValueDict) -> None:
    """Of two values one would be lost, and so would a file that nobody reads."""
    repeated = [name for name in values if len(values.getlist(name)) > 1]
    repeated += [name for name in files if name in values or len(files.getlist(name)) > 1]
    repeated = [name for name in repeated if name not in REPEATABLE]
    if repeated:
        raise _repeated_fields(repeated)
    errors = [
        {
            "field": name[:FIELD_NAME_SHOWN],
            "detail": "Only the script is sent as a file.",
            "hint": "Send the text of a file with < in place of @: -F requirements=<file.txt",
        }
        for name in files
        if name != "script"
    ][:UNKNOWN_FIELDS_NAMED]
    if errors:
        names = ", ".join(error["field"] for error in errors)
        raise UploadRejected(f"Not taken as a file: {names}.", errors=errors, hint=FORM_HINT)


def _form_number(text: Any) -> Any:
    """What is no number stays as it is: the check says what is wrong with it."""
    if WHOLE_NUMBER.fullmatch(str(text)):
        return int(text)
    return float(text) if DECIMAL_NUMBER.fullmatch(str(text)) else text


def _form_list(values: list[Any]) -> Any:
    """Repeated fields, a JSON list, or names between commas or lines. `a>=1,<2` stays whole."""
    if len(values) == 1 and str(values[0]).lstrip().startswith("["):
        return _json_or_text(str(values[0]))
    lines = [line.strip() for value in values for line in str(value).splitlines()]
    return [part for line in lines for part in _split_names(line) if part]


def _split_names(line: str) -> list[str]:
    """At commas before a name, but not at those between the brackets of extras."""
    return [part.strip() for part in re.split(r",(?![^\[\]]*\])(?=\s*[A-Za-z])", line)]


def _form_pairs(values: list[Any]) -> Any:
    """Repeated `NAME=VALUE` fields, or one JSON object."""
    if len(values) == 1 and str(values[0]).lstrip().startswith("{"):
        return _json_or_text(str(values[0]))
    pairs = [str(value).partition("=") for value in values]
    if not all(equals for _, equals, _ in pairs):
        return str(values[0])
    repeated = _repeated(name for name, _, _ in pairs)
    if repeated:
        raise _repeated_fields(repeated)
    return {name: content for name, _, content in pairs}


def _json_or_text(text: str) -> Any:
    try:
        return _loads(text)
    except ValueError:
        return text


# -- the checks ----------------------------------------------------------------------------------
def _checked(
    fields: dict[str, Any],
    *,
    known: frozenset[str],
    limits: UploadLimits,
    warnings: tuple[str, ...] = (),
) -> Submission:
    check = _Check(fields, limits)
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


class _Check:
    """Checks field after field and remembers every problem, so that one answer names them all."""

    def __init__(self, fields: Mapping[str, Any], limits: UploadLimits) -> None:
        self._fields = fields
        self._limits = limits
        self._errors: list[dict[str, str]] = []

    def raise_if_any(self) -> None:
        if not self._errors:
            return
        told = " ".join(
            f"{error['field']}: {error['detail']}" for error in self._errors[:ERRORS_TOLD]
        )
        more = len(self._errors) - ERRORS_TOLD
        rest = f" And {more} more." if more > 0 else ""
        raise UploadRejected(f"The request is not valid. {told}{rest}", errors=self._errors)

    def unknown_fields(self, known: frozenset[str]) -> None:
        unknown = [field for field in self._fields if field not in known]
        # Looking for a likely name takes time, and nobody reads a thousand of them.
        for field in unknown[:UNKNOWN_FIELDS_NAMED]:
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(known))}."
            self._wrong(field, "There is no such field.", hint)

    def script_name(self) -> str:
        name = self._fields.get("script_name")
        hint = "Send a plain file name that ends in .py, such as train.py."
        if not isinstance(name, str) or not name:
            self._wrong("script_name", "This field is required and must be text.", hint)
        elif not SCRIPT_NAME.fullmatch(name) or len(name) > SCRIPT_NAME_MAX:
            self._wrong("script_name", f"{name[:120]!r} is not a name for a script.", hint)
        else:
            return name
        return "script.py"

    def script_content(self) -> str:
        content = self._fields.get("script_content")
        encoding = self._fields.get("script_encoding")
        if not isinstance(content, str):
            self._wrong("script_content", "This field is required and must be text.", FORM_HINT)
            return ""
        if encoding not in (None, "plain", "base64"):
            self._wrong("script_encoding", "Unknown encoding.", "Send plain or base64.")
            return ""
        if encoding == "base64":
            return self._decoded(content)
        recognised = _recognised_base64(content) if encoding is None else None
        return self._script("script_content", content if recognised is None else recognised)

    def script_file(self) -> str:
        content = self._fields.get("script")
        if not isinstance(content, bytes):
            detail = "This field is required and must be a file."
            self._wrong("script", detail, FORM_HINT)
            return ""
        return self._utf8("script", content)

    def name(self, field: str, default: str, problem_of: Callable[[str], str | None]) -> str:
        value = self._fields.get(field)
        if value is None:
            value = default
        if not isinstance(value, str):
            self._wrong(field, "This field must be text.", "Put the name between quotes.")
            return default
        problem = problem_of(value)
        if problem:
            self._wrong(field, problem, "Choose a name of letters, digits, '_', '-' and '.'.")
        return value

    def requirements(self) -> tuple[str, ...]:
        asked = self._fields.get("requirements")
        hint = "Send a list of package names with optional versions."
        if asked is None:
            return ()
        if not isinstance(asked, list) or not all(isinstance(line, str) for line in asked):
            self._wrong("requirements", "This field must be a list of texts.", hint)
            return ()
        if len(asked) > REQUIREMENTS_MAX:
            self._wrong("requirements", f"There are more than {REQUIREMENTS_MAX}.", hint)
            return ()
        for line in asked:
            problem = requirement_problem(
                line, allow_urls=self._limits.allow_urls, rules=self._limits.packages
            )
            if problem:
                self._wrong("requirements", problem, hint)
        return tuple(dict.fromkeys(line.strip() for line in asked))

    def environment(self) -> tuple[tuple[str, str], ...]:
        pairs = self._texts("environment_vars", maximum=VARIABLES_MAX)
        for name, value in pairs.items():
            field = f"environment_vars.{name[:FIELD_NAME_SHOWN]}"
            if not VARIABLE_NAME.fullmatch(name):
                hint = "Use letters, digits and '_', and do not begin with a digit."
                self._wrong(field, "This is not a name for a variable.", hint)
            elif name.startswith(RESERVED_PREFIXES) or name in RESERVED_NAMES:
                self._wrong(field, "This name is the platform's own.", "Choose another name.")
            elif "\x00" in value:
                self._wrong(field, "The value contains a NUL byte.", "Remove it.")
        if sum(len(name) + len(value.encode()) for name, value in pairs.items()) > (
            VARIABLES_MAX_BYTES
        ):
            detail = f"Names and values have more than {VARIABLES_MAX_BYTES // 1024} KiB together."
            self._wrong("environment_vars", detail, "Put large values into a file in /data.")
        return tuple(pairs.items())

    def timeout(self) -> int:
        bounds = self._limits.timeout
        value = self._fields.get("timeout")
        hint = f"Send a whole number of seconds from {bounds['minimum']} to {bounds['maximum']}."
        if value is None:
            return bounds["default"]
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong("timeout", "This field must be a whole number.", hint)
        elif not bounds["minimum"] <= value <= bounds["maximum"]:
            bound = "below" if value < bounds["minimum"] else "above"
            limit = bounds["minimum"] if value < bounds["minimum"] else bounds["maximum"]
            self._wrong("timeout", f"{value} is {bound} {limit}.", hint)
        else:
            return value
        return bounds["default"]

    def tags(self) -> tuple[tuple[str, str], ...]:
        pairs = self._texts("tags", maximum=TAGS_MAX)
        for name, value in pairs.items():
            field = f"tags.{name[:FIELD_NAME_SHOWN]}"
            if not name.strip() or len(name) > TAG_NAME_MAX or len(value) > TAG_VALUE_MAX:
                hint = f"A name has 1 to {TAG_NAME_MAX} characters, a value {TAG_VALUE_MAX}."
                self._wrong(field, "Name or value has a length that is not allowed.", hint)
            elif not TAG_NAME.fullmatch(name) or not _is_plain_path(name):
                hint = "Use letters, digits, spaces and _ - . : and / between parts."
                self._wrong(field, "MLflow cannot keep a tag of this name.", hint)
            elif name.startswith(RESERVED_TAGS) or name in RESERVED_TAG_NAMES:
                self._wrong(field, "This name is the platform's own.", "Choose another name.")
        return tuple(pairs.items())

    def priority(self) -> Priority:
        value = self._fields.get("priority")
        words = [priority.word for priority in Priority]
        if value is None:
            return Priority.NORMAL
        if value not in words:
            self._wrong("priority", "There is no such priority.", f"Send {', '.join(words)}.")
            return Priority.NORMAL
        return Priority(words.index(value))

    def network(self) -> Network:
        """At most what the operator allows; that is what holds for who asks for nothing, too."""
        maximum = Network(self._limits.network["maximum"])
        allowed = [each for each in Network if each.at_most(maximum) is each]
        value = self._fields.get("network")
        hint = f"Send {' or '.join(allowed)}."
        if value is None:
            return Network(self._limits.network["default"]).at_most(maximum)
        if value not in Network.values:
            self._wrong("network", "There is no such network.", hint)
        elif value not in allowed:
            self._wrong("network", f"{value} is more than jobs may have here.", hint)
        else:
            return Network(value)
        return Network.NONE

    def limits(self, names: Iterable[str]) -> dict[str, Any]:
        """The value of each of these limits, or its default."""
        return {name: self._limit(name, self._limits.job[name]) for name in names}

    def _limit(self, field: str, bound: Bound) -> Any:
        value = self._fields.get(field)
        kind = "whole number" if bound.whole else "number"
        hint = f"Send a {kind} of {bound.unit} from {bound.minimum:g} to {bound.maximum:g}."
        if value is None:
            return bound.default
        if not _is_number(value, whole=bound.whole):
            self._wrong(field, f"This field must be a {kind}.", hint)
        elif field == "gpus" and value > 0 and bound.maximum == 0:
            self._wrong(field, "There is no GPU here that jobs may have.", "Leave gpus out.")
        elif not bound.minimum <= value <= bound.maximum:
            below = value < bound.minimum
            limit = bound.minimum if below else bound.maximum
            self._wrong(field, f"{value:g} is {'below' if below else 'above'} {limit:g}.", hint)
        else:
            return value
        return bound.default

    def python_version(self) -> str:
        offered = self._limits.pythons
        value = self._fields.get("python_version")
        if value is None:
            return offered[0]
        problem = python_problem(value, offered=offered)
        if problem is not None:
            self._errors += problem.errors
        return str(value)

    def _texts(self, field: str, *, maximum: int) -> dict[str, str]:
        """A mapping of text to text; what is not becomes a problem and an empty mapping."""
        value = self._fields.get(field)
        if value is None:
            return {}
        if not isinstance(value, dict):
            hint = 'Send {"NAME": "value"}, or NAME=value in a form.'
            self._wrong(field, "This field must map names to texts.", hint)
            return {}
        if len(value) > maximum:
            self._wrong(field, f"There are more than {maximum}.", "Send fewer.")
            return {}
        for name, content in value.items():
            if not isinstance(content, str):
                hint = f'Put it between quotes: "{name}": "{content}".'
                shown = f"{field}.{name[:FIELD_NAME_SHOWN]}"
                self._wrong(shown, "The value must be text.", hint[:300])
        return {name: text for name, text in value.items() if isinstance(text, str)}

    def _decoded(self, content: str) -> str:
        try:
            raw = base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError):
            hint = "Encode the file's bytes, or leave script_encoding out and send text."
            self._wrong("script_content", "This is not base64.", hint)
            return ""
        return self._utf8("script_content", raw)

    def _utf8(self, field: str, raw: bytes) -> str:
        try:
            return self._script(field, raw.decode())
        except UnicodeDecodeError:
            self._wrong(field, "The script is not UTF-8 text.", "Save it as UTF-8.")
            return ""

    def _script(self, field: str, script: str) -> str:
        maximum = self._limits.script_max_bytes
        size = len(script.encode())
        if not script.strip():
            self._wrong(field, "The script is empty.", "Send the text of a Python script.")
        elif size > maximum:
            detail = f"The script has {size} bytes; at most {maximum} are taken."
            self._wrong(field, detail, "Move data out of the script, into /data.")
        elif "\x00" in script:
            self._wrong(field, "The script contains a NUL byte.", "Send a text file.")
        return script

    def _wrong(self, field: str, detail: str, hint: str) -> None:
        self._errors.append({"field": field, "detail": detail, "hint": hint})


def _is_number(value: object, *, whole: bool) -> bool:
    """Not true, not infinity, and not what JSON cannot say."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)


def python_problem(value: Any, *, offered: Sequence[str]) -> UploadRejected | None:
    """Why nobody can have this Python; None when it is one of those that are offered."""
    if value in offered:
        return None
    hint = f"Send {' or '.join(offered)} as text; GET /mlops/training/limits lists them."
    told = f"Python {value[:FIELD_NAME_SHOWN]} is not offered." if isinstance(value, str) else ""
    detail = told or "This field must be text."
    error = {"field": "python_version", "detail": detail, "hint": hint}
    sentence = f"The request is not valid. python_version: {detail}"
    return UploadRejected(sentence, errors=[error], hint=hint)


def _is_plain_path(name: str) -> bool:
    """MLflow takes a tag's name for a path, and only one that cannot be written shorter."""
    return posixpath.normpath(name) == name and not name.startswith((".", "/"))


def _recognised_base64(content: str) -> str | None:
    """The decoded script when `content` can only be base64; None when it may be a script itself.

    A script that does anything has a bracket or a space, and base64 has neither; what decodes to
    text with a bracket or an import is no word by chance. Whether that text is good Python is not
    asked: parsing a megabyte takes seconds and hundreds of megabytes of the web process, and a
    script with a mistake must fail as a job that names the mistake.
    """
    packed = "".join(content.split())
    if not BASE64.match(content) or len(packed) < BASE64_MIN_CHARACTERS or len(packed) % 4:
        return None
    try:
        decoded = base64.b64decode(packed, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    is_script = "(" in decoded or "import" in decoded
    return decoded if is_script and not NOT_IN_SCRIPTS.search(decoded) else None
