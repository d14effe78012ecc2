"""Reads a body in which a script was pasted raw between the quotes of a JSON string.

The contract's quick start makes such a body with `"'"$(cat train.py)"'"`: newlines, quotes and
backslashes of the script arrive as they are, so the body is not JSON. The script is what stands
between `"script_content": "` and a quote after which the rest of the body is valid JSON of known
fields. Its bytes are taken as they are: a `\\n` in it stays two characters.

A reading counts only when it names script, experiment and model, because without that rule the end
of every text field that follows would be one. No reading, or more than one, is refused: a script is
never guessed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

REQUIRED = frozenset({"script_name", "experiment_name", "model_name"})
OPENING = re.compile(r'"script_content"\s*:\s*"')
# What may follow the script's closing quote: the end of the object, or one more field.
FOLLOWS = re.compile(r'"(?=\s*(?:\}\s*$|,\s*"(?P<field>[a-z_]+)"\s*:))')
RAW_CONTROL = re.compile(r"[\x00-\x1f]")
RAW_QUOTE = re.compile(r'(?<!\\)(?:\\\\)*"')


@dataclass(frozen=True)
class PastedUpload:
    """The script as it was pasted, and the other fields of the body."""

    script: str
    fields: dict[str, Any]


class PasteUnreadable(Exception):
    """There is no reading of the body, or more than one; the message says which."""


class _NotFields(ValueError):
    """Not an object of known fields that appear once."""


def looks_pasted(body: str) -> bool:
    """Whether there is a script in quotes at all, so that explaining a paste makes sense."""
    return OPENING.search(body) is not None


def read_pasted(body: str, *, known_fields: frozenset[str]) -> PastedUpload:
    """The one reading of the body. Raises PasteUnreadable."""
    readings = _readings(body, known_fields - {"script_content"})
    if not readings:
        raise PasteUnreadable(
            "The body is not JSON, and no script pasted raw into `script_content` can be found in "
            "it. A pasted script needs `script_name`, `experiment_name` and `model_name` beside it."
        )
    if len(readings) > 1:
        raise PasteUnreadable(
            "The script was pasted raw into `script_content` and holds text that looks like the "
            f"rest of the request: there are {len(readings)} ways to read it."
        )
    return readings[0]


def _readings(body: str, known_fields: frozenset[str]) -> list[PastedUpload]:
    for opening in OPENING.finditer(body):
        try:
            before = _fields_before(body[: opening.start()], known_fields)
        except _NotFields:
            continue
        return _readings_from(body, opening.end(), before, known_fields)
    return []


def _readings_from(
    body: str, start: int, before: dict[str, Any], known_fields: frozenset[str]
) -> list[PastedUpload]:
    found = []
    for closing in FOLLOWS.finditer(body, start):
        field = closing.group("field")
        if field is not None and field not in known_fields:
            continue
        script = body[start : closing.start()]
        try:
            after = _object('{"":0' + body[closing.end() :], known_fields | {""})
        except _NotFields:
            continue
        del after[""]
        fields = {**before, **after}
        complete = fields.keys() >= REQUIRED and not before.keys() & after.keys()
        if complete and _is_raw(script):
            found.append(PastedUpload(script=script, fields=fields))
    return found


def _fields_before(text: str, known_fields: frozenset[str]) -> dict[str, Any]:
    fields = _object(text + '"":0}', known_fields | {""})
    del fields[""]
    return fields


def _object(text: str, known_fields: frozenset[str]) -> dict[str, Any]:
    """Raises _NotFields."""

    def top_level(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise _NotFields
        return made

    try:
        value = json.loads(text, object_pairs_hook=top_level)
    except (ValueError, RecursionError) as error:
        raise _NotFields from error
    if not isinstance(value, dict) or not value.keys() <= known_fields:
        raise _NotFields
    return value


def _is_raw(script: str) -> bool:
    """A raw newline or quote cannot stand in a JSON string, and so proves the paste.

    Without this proof a string with one wrong escape would be taken as raw, and the `\\n` that its
    writer meant as newlines would arrive as two characters.
    """
    return bool(RAW_CONTROL.search(script) or RAW_QUOTE.search(script))
