"""Reads what was sent as a batch: a form with a file, or a file alone, which lies on the disk.

Never holds a file in memory, and never looks into one beyond its first bytes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from inference.batch.states import Format
from inference.question import Question, read_question
from inference.refusals import Refused, field_error, invalid, refusal
from inference.services.batches import Order

FORM = "multipart/form-data"
ALONE = {
    "text/csv": Format.CSV,
    "application/vnd.apache.parquet": Format.PARQUET,
    "application/x-parquet": Format.PARQUET,
    "application/octet-stream": None,
}
FILE = "file"
FLAGS = ("return_probabilities", "include_inputs", "escape_formulas")
FIELDS = ("model_name", "model_version", "model_alias", "format", *FLAGS)
TRUE, FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
# How files of other kinds begin, and what they are called.
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip (as Excel's workbooks are)", b"BZh": "bzip2"}
PARQUET_BEGIN = b"PAR1"
BEGIN_BYTES = 8
PIECE_BYTES = 1024 * 1024
NAME_CHARACTERS = 200
Errors = list[dict[str, str]]
Sent = Mapping[str, list[str]]


def media_type_of(content_type: str) -> str:
    """Raises Refused for one that is no file and no form."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM or kind in ALONE:
        return kind
    told = f"A body of type {kind[:80]}" if kind else "A body without a Content-Type"
    raise refusal(
        415,
        "unsupported_media_type",
        f"{told} cannot be read here.",
        hint=f"Send a form ({FORM}) with the file as `{FILE}`, or the file alone as text/csv or "
        "application/vnd.apache.parquet, with the fields in the query.",
    )


def read_form(body: Path, content_type: str, target: Path) -> tuple[Sent, str]:
    """The form's fields, and the name of its file, which is in `target` then. Raises Refused."""
    with body.open("rb") as stream, target.open("wb") as file:
        keeper = _Keeper(file)
        meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(body.stat().st_size)}
        try:
            fields, _ = MultiPartParser(meta, stream, [keeper], "utf-8").parse()
        except (MultiPartParserError, SuspiciousOperation) as error:
            raise refusal(400, "invalid_form", f"The form cannot be read: {error}") from error
    errors = keeper.errors()
    if errors:
        raise invalid(errors)
    return {name: [str(value) for value in fields.getlist(name)] for name in fields}, keeper.name


class _Keeper(FileUploadHandler):
    """Writes the one file that is wanted to the disk, and remembers what else there was."""

    chunk_size = PIECE_BYTES

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.name = ""
        self._file = file
        self._found = 0
        self._others: list[str] = []

    def new_file(self, *arguments: Any, **named: Any) -> None:
        super().new_file(*arguments, **named)
        if self.field_name != FILE or self._found:
            self._others.append(str(self.field_name)[:80])
            raise SkipFile
        self._found += 1
        self.name = str(self.file_name or "")[-NAME_CHARACTERS:]

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._file.write(raw_data)

    def file_complete(self, file_size: int) -> None:
        return None

    def errors(self) -> Errors:
        missing = [] if self._found else [field_error(FILE, "Send the file in this field.")]
        told = f"One file is taken, in the field `{FILE}`."
        return missing + [field_error(name, told) for name in self._others]


def order_of(sent: Sent, file: Path, file_name: str) -> Order:
    """All problems in one answer, each with its field. Raises Refused."""
    form = format_of(file)
    errors = _repeated_or_unknown(sent)
    one = {name: values[0].strip() for name, values in sent.items() if values and values[0].strip()}
    flags = {name: _flag(name, one.get(name, ""), errors) for name in FLAGS}
    wanted = one.get("format", Format.CSV.value).lower()
    if wanted not in Format.values:
        errors.append(field_error("format", "Expected csv or parquet."))
    question = _question(one, errors)
    if errors or question is None:
        raise invalid(errors)
    return Order(
        model_name=question.model_name,
        selector=question.selector,
        input_format=form.value,
        output_format=wanted,
        return_probabilities=bool(flags["return_probabilities"]),
        include_inputs=bool(flags["include_inputs"]),
        escape_formulas=flags["escape_formulas"] is not False,
        file_name=_plain_name(file_name),
    )


def format_of(file: Path) -> Format:
    """By how it begins, whatever it is called. Raises Refused."""
    with file.open("rb") as stream:
        begin = stream.read(BEGIN_BYTES)
    if not begin:
        raise invalid([field_error(FILE, "The file is empty.")])
    for mark, name in PACKED.items():
        if begin.startswith(mark):
            told = f"The file is packed as {name}; send CSV or Parquet as it is."
            raise invalid([field_error(FILE, told)])
    return Format.PARQUET if begin.startswith(PARQUET_BEGIN) else Format.CSV


def _question(one: Mapping[str, str], errors: Errors) -> Question | None:
    """Which model is asked, by the rules of a request. Adds to `errors`."""
    asked = {
        name: one[name] for name in ("model_name", "model_version", "model_alias") if name in one
    }
    try:
        return read_question(orjson.dumps({**asked, "inputs": [[0]]}))
    except Refused as refused:
        if not refused.problem.errors:
            raise
        errors.extend(refused.problem.errors)
        return None


def _flag(name: str, text: str, errors: Errors) -> bool | None:
    word = text.lower()
    if not word:
        return None
    if word not in TRUE | FALSE:
        errors.append(field_error(name, "Expected true or false."))
    return word in TRUE


def _repeated_or_unknown(sent: Sent) -> Errors:
    """A misspelt field would be left out in silence."""
    known = ", ".join(FIELDS)
    unknown = [name for name in sent if name not in FIELDS][:5]
    twice = [name for name in FIELDS if len(sent.get(name, [])) > 1]
    return [
        *(field_error(name[:80], f"There is no such field; known: {known}.") for name in unknown),
        *(field_error(name, "This field comes more than once.") for name in twice),
    ]


def _plain_name(name: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "", name)[-NAME_CHARACTERS:]
