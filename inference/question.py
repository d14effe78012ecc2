"""Reads a prediction's request: whom it is for. The inputs are the model server's business.

Bodies are parsed by the same parser here and in the model's server, so both see the same document:
of a key that comes twice the last counts, and nesting is bounded by the parser (1,024 levels).
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from inference.entities import JOIN_FIELDS, Wanted, read_wanted, wants_features
from inference.refusals import field_error, invalid, refusal, version_not_found

FIELDS = frozenset({"model_name", "model_version", "model_alias", "inputs", "return_probabilities"})
UNKNOWN_SHOWN = 5
MAX_VERSION_DIGITS = 9
LATEST = "latest"
# MLflow's own rule for aliases.
ALIAS = re.compile(r"[\w-]{1,255}")
SHAPES = 'columns {"age": [25, 35]}, records [{"age": 25}, {"age": 35}], or rows [[25], [35]]'
Errors = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """Which model is asked. `selector` is a number, an alias, or `latest`.

    `wanted` are the features to look up; without any, the body can be passed on as it came.
    """

    model_name: str
    selector: str
    wanted: Wanted | None = None


def read_question(body: bytes) -> Question:
    """All problems in one answer, each with its field. Raises Refused."""
    document = parsed(body)
    name, version = document.get("model_name"), document.get("model_version")
    alias = document.get("model_alias")
    if _plain(document, name, version, alias):
        return Question(str(name), selector_of(str(name), version))
    wanted, inputs_errors = _wanted(document)
    errors = [
        *_name_errors(name),
        *_version_errors(version),
        *_alias_errors(alias, version),
        *inputs_errors,
        *_probabilities_errors(document.get("return_probabilities")),
        *_unknown_errors(document),
    ]
    if errors:
        raise invalid(errors)
    return Question(str(name), alias or selector_of(str(name), version), wanted)


def _wanted(document: dict[str, Any]) -> tuple[Wanted | None, Errors]:
    if wants_features(document):
        return read_wanted(document)
    return None, _inputs_errors(document.get("inputs"))


def _plain(document: dict[str, Any], name: Any, version: Any, alias: Any) -> bool:
    """The usual request, told apart from all others without making a list of errors."""
    return (
        type(name) is str
        and bool(name.strip())
        and (version is None or (type(version) is str and bool(version.strip())))
        and alias is None
        and type(document.get("inputs")) in (dict, list)
        and type(document.get("return_probabilities", False)) is bool
        and document.keys() <= FIELDS
    )


def parsed(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises Refused."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise refusal(
            400,
            "invalid_json",
            f"The body is not JSON: {error}.",
            hint="A missing number is null in JSON; NaN and Infinity do not exist in it.",
        ) from error
    if not isinstance(document, dict):
        raise refusal(400, "invalid_json", "The body must be a JSON object.")
    return document


def selector_of(name: str, version: Any) -> str:
    """A number without leading zeros, an alias, or `latest`. Raises Refused."""
    if version is None:
        return LATEST
    text = str(version).strip()
    if text.isascii() and text.isdecimal():
        if len(text) > MAX_VERSION_DIGITS:
            raise version_not_found(name, text)
        return str(int(text))
    if not ALIAS.fullmatch(text):
        raise version_not_found(name, text)
    return text


def _name_errors(name: Any) -> Errors:
    if name is None:
        return [field_error("model_name", "This field is required.")]
    if not isinstance(name, str) or not name.strip():
        return [field_error("model_name", "Expected the model's name as text.")]
    return []


def _version_errors(version: Any) -> Errors:
    if version is None or (isinstance(version, int) and not isinstance(version, bool)):
        return []
    if isinstance(version, str) and version.strip():
        return []
    told = 'Expected a version number such as "1", an alias, "latest", or nothing.'
    return [field_error("model_version", told)]


def _alias_errors(alias: Any, version: Any) -> Errors:
    if alias is None:
        return []
    if not isinstance(alias, str) or not ALIAS.fullmatch(alias):
        return [field_error("model_alias", 'Expected an alias such as "champion".')]
    if version is not None:
        return [field_error("model_alias", "Send either model_version or model_alias.")]
    return []


def _inputs_errors(inputs: Any) -> Errors:
    if inputs is None:
        return [field_error("inputs", "This field is required.")]
    if not isinstance(inputs, dict | list):
        return [field_error("inputs", f"Expected {SHAPES}.")]
    return []


def _probabilities_errors(wanted: Any) -> Errors:
    if isinstance(wanted, bool | None):
        return []
    return [field_error("return_probabilities", "Expected true or false.")]


def _unknown_errors(document: dict[str, Any]) -> Errors:
    """A misspelt field would be left out in silence."""
    every = FIELDS | JOIN_FIELDS
    unknown = [field for field in document if field not in every][:UNKNOWN_SHOWN]
    known = ", ".join(sorted(every))
    return [
        field_error(field[:80], f"There is no such field; known: {known}.") for field in unknown
    ]
