"""The form of "try it": made from a version's schema, read again with what somebody filled in.

What comes of it is the body of `POST /mlops/inference`, and the same call as a terminal or a
program would make it.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pprint import pformat
from typing import Any

import orjson
from django.http import QueryDict

from inference.descriptions import ColumnOf, Model
from inference.gateway import PATH
from inference.schema import example_request
from registry.console import visible

FORM, JSON = "form", "json"
# What stands in the field where nobody knows what a model takes.
PATTERN = '[{"name of a column": 0.0}]'
FIELDS_MOST = 60
PREFIX = "in."
TRY_BYTES = 256 * 1024
CALL_CHARACTERS = 20_000
TOO_LONG = "# The call is too long to be shown: send the JSON from a file."
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,19}")
NUMBERS, WHOLE_NUMBERS = ("double", "float"), ("long", "integer")


@dataclass(frozen=True)
class Field:
    """One column of the form with what stands in it, and what is wrong with that."""

    column: ColumnOf
    value: str
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.column.name}"

    @property
    def kind(self) -> str:
        """Of the control."""
        return "choice" if self.column.type == "boolean" else "line"

    @property
    def keyboard(self) -> str:
        """What a phone shows."""
        if self.column.type in WHOLE_NUMBERS:
            return "numeric"
        return "decimal" if self.column.type in NUMBERS else "text"


@dataclass(frozen=True)
class Sheet:
    """What stands in the form: fields or JSON, and the body that follows from it.

    `body` is None when something is wrong, which `problems` or the fields say.
    """

    mode: str
    fields: Sequence[Field]
    text: str
    body: Mapping[str, Any] | None
    problems: Sequence[str] = ()

    @property
    def has_form(self) -> bool:
        return bool(self.fields)


def blank(model: Model) -> Sheet:
    """With the model's own example, or one of our making; a pattern where it would be a guess."""
    if not knows_rows(model):
        return Sheet(JSON, [], PATTERN, None)
    inputs = example_request(model)["inputs"]
    fields = _fields(model, _first_row(model, inputs))
    text = written(_records(model, inputs), indented=orjson.OPT_INDENT_2)
    sheet = _sized(Sheet(JSON, fields, text, _request(model, inputs)))
    if sheet.body is None:
        # An example is a stranger's too: one that is too long to be sent is none.
        sheet = Sheet(JSON, fields, "[]", None)
    return replace(sheet, mode=FORM if fields else JSON)


def knows_rows(model: Model) -> bool:
    """Whether there is an example, or enough was written down to make one."""
    return bool(model.columns) or model.width is not None or model.example is not None


def read(model: Model, sent: QueryDict) -> Sheet:
    """What somebody filled in, with the rest of the form as it was."""
    before = blank(model)
    if sent.get("mode") == JSON or not before.has_form:
        return _read_json(model, before, sent.get("inputs", ""))
    fields, row = [], {}
    for known in before.fields:
        text = sent.get(known.name, "").strip()
        try:
            row[known.column.name] = _value(known.column, text)
            fields.append(Field(known.column, text))
        except ValueError as wrong:
            fields.append(Field(known.column, text, str(wrong)))
    if any(one.problem for one in fields):
        return Sheet(FORM, fields, before.text, None)
    inputs = {name: [value] for name, value in row.items()}
    return _sized(Sheet(FORM, fields, before.text, _request(model, inputs)))


def with_problems(sheet: Sheet, found: Mapping[str, str]) -> Sheet:
    """The model's own refusals, each beside its field where there is one."""
    fields = [
        Field(one.column, one.value, found.get(one.column.name, one.problem))
        for one in sheet.fields
    ]
    return replace(sheet, fields=fields)


def _read_json(model: Model, before: Sheet, text: str) -> Sheet:
    try:
        inputs = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Sheet(JSON, before.fields, text, None, [f"This is not JSON: {error}."])
    if not isinstance(inputs, dict | list):
        told = 'Expected records [{"age": 25}], columns {"age": [25]}, or rows [[25]].'
        return Sheet(JSON, before.fields, text, None, [told])
    return _sized(Sheet(JSON, before.fields, text, _request(model, inputs)))


def _sized(sheet: Sheet) -> Sheet:
    if sheet.body is None:
        return sheet
    text = written(sheet.body)
    if text and len(text) <= TRY_BYTES:
        return sheet
    told = f"A trial may have {TRY_BYTES // 1024} KB; the API takes more."
    if not text:
        told = "The lists are too deep in each other."
    return replace(sheet, body=None, problems=[told])


def written(document: Any, *, indented: int = 0) -> str:
    """A document as JSON; empty for what is too deep in itself."""
    try:
        return orjson.dumps(document, option=indented).decode()
    except orjson.JSONEncodeError:
        return ""


def _request(model: Model, inputs: Any) -> dict[str, Any]:
    asked = {"model_name": model.name, "model_version": model.version, "inputs": inputs}
    return {**asked, "return_probabilities": True} if model.probabilities else asked


def _fields(model: Model, row: Mapping[str, Any]) -> list[Field]:
    """None for a model whose columns have no names, or too many."""
    names = {column.name for column in model.columns}
    if not 0 < len(model.columns) <= FIELDS_MOST or len(names) < len(model.columns):
        return []
    return [Field(column, _text(row.get(column.name))) for column in model.columns]


def _first_row(model: Model, inputs: Any) -> Mapping[str, Any]:
    """Of inputs in any of their forms; what a model brings as its example may be anything."""
    if isinstance(inputs, dict):
        return {
            name: cells[0] for name, cells in inputs.items() if isinstance(cells, list) and cells
        }
    first = inputs[0] if isinstance(inputs, list) and inputs else None
    if isinstance(first, dict):
        return first
    names = [column.name for column in model.columns]
    return dict(zip(names, first, strict=False)) if isinstance(first, list) else {}


def _records(model: Model, inputs: Any) -> Any:
    """Columns as rows with names, which one adds to more easily."""
    names = {column.name for column in model.columns}
    if not isinstance(inputs, dict) or not inputs or not inputs.keys() <= names:
        return inputs
    columns = list(inputs.values())
    if not all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns):
        return inputs
    return [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else written(value)


def _value(column: ColumnOf, text: str) -> Any:
    """Raises ValueError with what is expected."""
    if not text and column.type != "string":
        if column.required:
            raise ValueError("A value is needed.")
        return None
    if column.type in WHOLE_NUMBERS:
        if not WHOLE_NUMBER.fullmatch(text):
            raise ValueError("Expected a whole number.")
        if not -(2**63) <= int(text) < 2**63:
            raise ValueError("Expected a number of 64 bits.")
        return int(text)
    if column.type in NUMBERS:
        return _number(text)
    if column.type == "boolean":
        if text not in ("true", "false"):
            raise ValueError("Expected true or false.")
        return text == "true"
    if column.type == "any":
        return _anything(text)
    return text if text or column.required else None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("Expected a number.") from None
    if not math.isfinite(value):
        raise ValueError("Expected a number that ends.")
    return value


def _anything(text: str) -> Any:
    """A number, true or null where it reads as one; text otherwise."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


# -- the same call --------------------------------------------------------------------------------
def as_curl(address: str, body: Mapping[str, Any]) -> str:
    document = json.dumps(body)
    lines = [
        f"curl -s {shlex.quote(address + PATH)} \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(document)}",
    ]
    return _bounded("\n".join(lines))


def as_python(address: str, body: Mapping[str, Any]) -> str:
    try:
        document = pformat(dict(body), width=88, sort_dicts=False)
    except RecursionError:
        return TOO_LONG
    lines = [
        "import requests",
        "",
        "answer = requests.post(",
        f"    {address + PATH!r},",
        "    json=" + document.replace("\n", "\n    ") + ",",
        ")",
        "answer.raise_for_status()",
        'print(answer.json()["predictions"])',
    ]
    return _bounded("\n".join(lines))


def _bounded(text: str) -> str:
    if len(text) > CALL_CHARACTERS:
        return TOO_LONG
    return visible(text)
