"""Finds the script in a body into which it was pasted raw between the quotes of a JSON string.

The contract's quick start makes such a body with `"'"$(cat train.py)"'"`: newlines, quotes and
backslashes of the script arrive as they are, so the body is not JSON. The script is what stands
between `"script_content": "` and a quote after which the rest of the body is JSON fields up to its
end. It is taken as it is: a `\\n` in it stays two characters, and CRLF stays CRLF.

A quote counts as the script's end only when script, experiment and model are named outside it:
without that rule the end of every text field that follows would be one too. Fields that nobody
knows, or that come twice, count as well: a mistake behind the script must not make the next quote
the only end. One end is a reading. None, or more than one, is refused: a script is never guessed.

What is strict JSON never comes here, even when it was pasted: a script of one line without quotes
whose escapes JSON knows, or one that closes the string itself and goes on with proper fields. Such
a body is, byte for byte, what a client that escapes properly sends for another script.

Every place of the body is read once, with a bound on the work: a hostile body costs what an honest
one of its size does.
"""

import json
import re
from dataclasses import dataclass

REQUIRED = frozenset({"script_name", "experiment_name", "model_name"})
SPACE = " \t\n\r"
SPACES = re.compile(rf"[{SPACE}]*")
OPENING = re.compile(r'"script_content"\s*:\s*"')
# A quote that can be the script's last: the object ends behind it, or another field begins.
CLOSING = re.compile(rf'"[{SPACE}]*(?=[,}}])')
RAW_CONTROL = re.compile(r"[\x00-\x1f]")
RAW_QUOTE = re.compile(r'(?<!\\)(?:\\\\)*"')
# Nested values are read once for every level; text that is not made to be slow has few levels.
READS_PER_CHARACTER = 20
# Numbers are only skipped here; `int` refuses thousands of digits, `float` takes any number.
DECODER = json.JSONDecoder(parse_int=float)


@dataclass(frozen=True)
class PastedUpload:
    """The script as it was pasted, and the body as JSON with an empty text in its place."""

    script: str
    rest: str


class PasteUnreadable(Exception):
    """The body cannot be read as one with a pasted script; the message says why."""


class PasteAmbiguous(PasteUnreadable):
    """There is more than one way to read the body."""


class _NotFields(ValueError):
    """What stands there is not fields of a JSON object."""


def looks_pasted(body: str) -> bool:
    """Whether there is a script in quotes at all, so that explaining a paste makes sense."""
    return OPENING.search(body) is not None


def read_pasted(body: str) -> PastedUpload:
    """The one reading of the body. Raises PasteUnreadable or PasteAmbiguous."""
    try:
        start, names_before = _opening(body)
        ends = _ends(body, start, names_before)
    except _NotFields:
        ends = []
    except RecursionError:
        raise PasteUnreadable("The body is not JSON, and is nested too deeply.") from None
    if not ends:
        raise PasteUnreadable(
            "The body is not JSON, and no script pasted raw into `script_content` can be found in "
            "it. A pasted script needs `script_name`, `experiment_name` and `model_name` beside it."
        )
    if len(ends) > 1:
        raise PasteAmbiguous(
            "The script was pasted raw into `script_content`, and the request can be understood in "
            f"more than one way: there are {len(ends)} ways to read it."
        )
    script = body[start : ends[0]]
    if not _is_raw(script):
        raise PasteUnreadable(
            "The body is not JSON, and `script_content` has neither a raw newline nor a raw quote "
            "that would prove it to be pasted: one of its escapes is wrong."
        )
    return PastedUpload(script=script, rest=body[:start] + body[ends[0] :])


def _opening(body: str) -> tuple[int, frozenset[str]]:
    """Where the script begins, and the names of the fields before it. Raises _NotFields."""
    names: set[str] = set()
    position = _skip_spaces(body, 0)
    expected = "{"
    while body.startswith(expected, position):
        name, position = _name(body, position + 1)
        if name == "script_content":
            if not body.startswith('"', position):
                raise _NotFields
            return position + 1, frozenset(names)
        names.add(name)
        position = _value_end(body, position)
        expected = ","
    raise _NotFields


def _ends(body: str, start: int, names_before: frozenset[str]) -> list[int]:
    """Every quote that can be the script's last."""
    tails = _Tails(body)
    found = []
    for closing in CLOSING.finditer(body, start):
        names = tails.names_from(closing.end())
        if names is not None and names | names_before >= REQUIRED:
            found.append(closing.start())
    return found


class _Tails:
    """Asks whether a body is fields from some place to its end; reads each place only once."""

    def __init__(self, body: str) -> None:
        self._body = body
        self._last = len(body.rstrip(SPACE)) - 1
        self._names: dict[int, frozenset[str] | None] = {}
        self._reads_left = READS_PER_CHARACTER * len(body)

    def names_from(self, position: int) -> frozenset[str] | None:
        """Which required names the fields from the comma or brace on have; None: no fields."""
        passed: list[tuple[int, str]] = []
        while position not in self._names:
            if not self._body.startswith(",", position):
                closes = position == self._last and self._body[position] == "}"
                self._names[position] = frozenset() if closes else None
                break
            try:
                name, end = self._field(position)
            except _NotFields:
                self._names[position] = None
                break
            passed.append((position, name))
            position = end
        names = self._names[position]
        for place, name in reversed(passed):
            names = None if names is None else names | (REQUIRED & {name})
            self._names[place] = names
        return names

    def _field(self, comma: int) -> tuple[str, int]:
        stopped = comma
        try:
            name, stopped = _name(self._body, comma + 1)
            stopped = _value_end(self._body, stopped)
        except _NotFields as error:
            stopped = getattr(error.__cause__, "pos", stopped)
            raise
        finally:
            self._reads_left -= stopped - comma
            if self._reads_left < 0:
                raise PasteUnreadable(
                    "The body is not JSON, and holds too much text that looks like JSON to find "
                    "the script in it."
                )
        return name, stopped


def _name(body: str, position: int) -> tuple[str, int]:
    """A field's name, and where its value begins. Raises _NotFields."""
    position = _skip_spaces(body, position)
    if not body.startswith('"', position):
        raise _NotFields
    name, position = _decode(body, position)
    position = _skip_spaces(body, position)
    if not body.startswith(":", position):
        raise _NotFields
    return str(name), _skip_spaces(body, position + 1)


def _value_end(body: str, position: int) -> int:
    """Where the value and the spaces behind it end. Raises _NotFields."""
    return _skip_spaces(body, _decode(body, position)[1])


def _decode(body: str, position: int) -> tuple[object, int]:
    try:
        return DECODER.raw_decode(body, position)
    except json.JSONDecodeError as error:
        raise _NotFields from error


def _skip_spaces(body: str, position: int) -> int:
    found = SPACES.match(body, position)
    return found.end() if found else position


def _is_raw(script: str) -> bool:
    """A raw control character or quote cannot stand in a JSON string, and so proves the paste.

    Without this proof a string with one wrong escape would be taken as raw, and the `\\n` that its
    writer meant as newlines would arrive as two characters.
    """
    return bool(RAW_CONTROL.search(script) or RAW_QUOTE.search(script))
