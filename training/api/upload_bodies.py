"""Reads the body of an upload into fields as JSON has them; what is in a field is not looked at.

Forms: JSON; JSON into which the script was pasted raw (`pasted`); a form with the script as a file.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.http import QueryDict
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.utils.datastructures import MultiValueDict

from training.api.pasted import PasteUnreadable, looks_pasted, read_pasted
from training.api.upload_fields import LIMIT_FIELDS
from training.api.upload_problems import (
    FIELD_NAME_SHOWN,
    FIELDS_NAMED,
    FORM_HINT,
    UnsupportedUpload,
    UploadRejected,
)

REPEATABLE = frozenset({"requirements", "environment_vars", "tags"})
NUMBERS = ("timeout", *LIMIT_FIELDS)
WHOLE_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
DECIMAL_NUMBER = re.compile(r"\s*[0-9]{1,9}\.[0-9]{1,9}\s*")
# `int` refuses thousands of digits with an error that looks like broken JSON.
INTEGER_DIGITS = 18
EDITS_HINT = 'Send nothing, or what is to change: {"timeout": 600}.'
PASTED_WARNING = "script_content was not valid JSON; it was taken raw, exactly as pasted"


def json_fields(body: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields, and what its sender is to be told. Raises UploadRejected."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise UploadRejected("The body is not UTF-8 text.", hint=FORM_HINT) from None
    try:
        fields = _loads(text)
    except ValueError as error:
        return _pasted_fields(text, error)
    return _object(fields), ()


def edit_fields(body: bytes, content_type: str) -> dict[str, Any]:
    """Of a rerun, where nothing at all is JSON too. Raises UploadRejected."""
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


def form_fields(body: bytes, content_type: str) -> dict[str, Any]:
    """As JSON would have them; the script is bytes. Raises UploadRejected."""
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
    fields |= {name: form_number(fields[name]) for name in NUMBERS if name in fields}
    script = files.get("script")
    if isinstance(script, UploadedFile):
        fields["script"] = script.read()
        if not fields.get("script_name"):
            fields["script_name"] = script.name
    return fields


# -- JSON ----------------------------------------------------------------------------------------
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
    shown = list(dict.fromkeys(name[:FIELD_NAME_SHOWN] for name in names))[:FIELDS_NAMED]
    detail = "This name comes more than once."
    errors = [{"field": name, "detail": detail, "hint": "Send it once."} for name in shown]
    return UploadRejected(
        f"Sent more than once: {', '.join(shown)}.", errors=errors, hint=FORM_HINT
    )


# -- forms ---------------------------------------------------------------------------------------
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
    ][:FIELDS_NAMED]
    if errors:
        names = ", ".join(error["field"] for error in errors)
        raise UploadRejected(f"Not taken as a file: {names}.", errors=errors, hint=FORM_HINT)


def form_number(text: Any) -> Any:
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
