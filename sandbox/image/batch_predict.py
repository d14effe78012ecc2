"""The first process of a batch's container: predicts a file of rows with one model, and ends.

It reads the file twice: all of it is checked before the model is asked for the first row. Each
chunk goes the way of a request's inputs (`served_model.py`), so that its answers are a request's.
The file and the model are strangers' alike, and so is whatever this process says.
"""

import argparse
import gc
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], "/platform", sys.path[0]]

import orjson  # noqa: E402 (found through the line above, as all that follow)
from served_answers import attempt  # noqa: E402
from served_desk import refusal_of  # noqa: E402
from served_ends import Exit  # noqa: E402
from served_failure import failed_load  # noqa: E402
from served_files import Chunk, InputFile, open_file  # noqa: E402
from served_inputs import InputsRefused  # noqa: E402
from served_record import Record  # noqa: E402
from served_shapes import ERRORS_SHOWN  # noqa: E402

if TYPE_CHECKING:
    from served_model import ServedModel

CHECKING, PREDICTING = "checking the file", "predicting"
ROW = re.compile(r"\brow (\d+):")


@dataclass(frozen=True)
class Wishes:
    """What is wanted of the model, and beside its answers."""

    probabilities: bool
    inputs: bool


def predict_file(model: "ServedModel", path: Path, wishes: Wishes, record: Record) -> None:
    """Raises InputsRefused, AnswerRefused, and whatever else the model's own code raises."""
    file = open_file(path, model.estimator.expected)
    total = _checked(model, file, wishes, record)
    told_head = False
    for chunk in file.chunks():
        prepared = model.prepare(chunk.inputs, probabilities=wishes.probabilities)
        try:
            result = model.answer(prepared)
        except InputsRefused as refused:
            raise _in_the_file(refused, chunk) from refused
        if not told_head:
            # Some models know their classes only once they have answered.
            classes = result.classes if wishes.probabilities else None
            record.head(names=file.names if wishes.inputs else None, classes=classes)
            told_head = True
        record.rows(
            chunk.first,
            chunk.rows,
            labels=result.labels,
            chances=result.chances,
            inputs=chunk.inputs if wishes.inputs else None,
        )
        done = chunk.first + chunk.rows
        record.progress(PREDICTING, done=done, total=total, share=done / total)
    record.end(total)


def _checked(model: "ServedModel", file: InputFile, wishes: Wishes, record: Record) -> int:
    """How many rows there are. Raises InputsRefused with the first that is wrong of all of them."""
    rows, refused = 0, None
    for chunk in file.chunks():
        rows = chunk.first + chunk.rows
        found = _refusal_of(model, chunk, wishes)
        if found is not None:
            refused = found if refused is None else refused.beside(found)
            if found.code != "wrong_type" or len(refused.errors) >= ERRORS_SHOWN:
                raise refused
        record.progress(CHECKING, done=0, total=None, share=chunk.share)
    if refused is not None:
        raise refused
    if not rows:
        told = "The file has no rows: send at least one."
        raise InputsRefused("inputs_empty", told, [("file", told)])
    return rows


def _refusal_of(model: "ServedModel", chunk: Chunk, wishes: Wishes) -> InputsRefused | None:
    try:
        model.prepare(chunk.inputs, probabilities=wishes.probabilities)
    except InputsRefused as refused:
        return _in_the_file(refused, chunk)
    return None


def _in_the_file(refused: InputsRefused, chunk: Chunk) -> InputsRefused:
    """A chunk's rows are numbered from its begin; a reader looks for them in the file."""

    def named(found: re.Match[str]) -> str:
        row = int(found[1])
        line = f" (line {chunk.lines[row]})" if row < len(chunk.lines) else ""
        return f"row {chunk.first + row}{line}:"

    errors = [(error["field"], ROW.sub(named, error["detail"])) for error in refused.errors]
    return InputsRefused(refused.code, ROW.sub(named, refused.detail), errors)


def run(folder: Path, path: Path, wishes: Wishes, record: Record) -> int:
    """The exit code."""
    # Here and not above: it imports pandas, and by then whatever is printed goes to the errors.
    from served_model import load  # noqa: PLC0415

    record.phase("loading the model")
    model, error = attempt(lambda: load(folder, record.phase))
    if error is not None or model is None:
        return failed_load(error)
    # What is there now stays: a collector that looks through it at each chunk takes its time.
    gc.collect()
    gc.freeze()
    _, error = attempt(lambda: predict_file(model, path, wishes, record))
    if error is None:
        return Exit.DONE
    reply = refusal_of(error, elsewhere=model.elsewhere)
    record.refusal({**orjson.loads(reply.body), "status": reply.status})
    return Exit.REFUSED


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("/model"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--output-bytes", type=int, required=True)
    parser.add_argument("--probabilities", action="store_true")
    parser.add_argument("--inputs", action="store_true")
    asked = parser.parse_args(arguments)
    record = Record.of_this_process(most_bytes=asked.output_bytes)
    wishes = Wishes(probabilities=asked.probabilities, inputs=asked.inputs)
    code = run(asked.model, asked.file, wishes, record)
    sys.stderr.flush()
    # Not sys.exit: threads of a model would be waited for.
    os._exit(code)


if __name__ == "__main__":
    main()
