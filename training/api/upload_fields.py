"""Checks the fields of an upload one by one, and remembers everything that is wrong with them.

Whether the script is good Python is not asked here: that is the job's to find out.
"""

import base64
import binascii
import difflib
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sandbox.build_rules import BuildRules
from training.api.requirements_check import requirement_problem
from training.api.script_text import recognised_base64
from training.api.upload_problems import (
    FIELD_NAME_SHOWN,
    FIELDS_NAMED,
    FORM_HINT,
    UploadRejected,
)
from training.limits import Bound, JobLimits
from training.states import Network, Priority

LIMIT_FIELDS = tuple(field.name for field in fields(JobLimits))
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
# How many problems are told in the sentence too, for a client that reads nothing but `detail`.
ERRORS_TOLD = 5


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


class FieldCheck:
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
        for field in unknown[:FIELDS_NAMED]:
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
        recognised = recognised_base64(content) if encoding is None else None
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


def _is_number(value: object, *, whole: bool) -> bool:
    """Not true, not infinity, and not what JSON cannot say."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)


def _is_plain_path(name: str) -> bool:
    """MLflow takes a tag's name for a path, and only one that cannot be written shorter."""
    return posixpath.normpath(name) == name and not name.startswith((".", "/"))
