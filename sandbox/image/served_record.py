"""What a batch's container says, a line for each thing, on an output that is ours alone.

`docs/MODEL_SERVER.md` has the lines. Whatever else the process prints goes to its errors.
"""

import base64
import os
import sys
from typing import Any, BinaryIO

import numpy as np
import orjson
from served_answers import AnswerRefused, json_of, plain, row_count

LINE_ROWS = 256
LINE_BYTES = 2 * 1024 * 1024


class Record:
    """Writes the lines, and keeps what all rows together may have."""

    def __init__(self, output: BinaryIO, *, most_bytes: int) -> None:
        self._output = output
        self._most_bytes = most_bytes
        self._bytes = 0

    @classmethod
    def of_this_process(cls, *, most_bytes: int) -> "Record":
        """From here on whatever is printed goes to the errors."""
        output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(output, most_bytes=most_bytes)

    def phase(self, words: str) -> None:
        self._line(b"p", orjson.dumps({"phase": words}))

    def progress(self, phase: str, *, done: int, total: int | None, share: float) -> None:
        told = {"phase": phase, "done": done, "of": total, "share": round(share, 4)}
        self._line(b"p", orjson.dumps(told))

    def head(self, *, names: list[str] | None, classes: list[Any] | None) -> None:
        """Before the first rows: which columns come with them."""
        told = {"inputs": names, "classes": classes}
        self._line(b"h", base64.b64encode(orjson.dumps(told, default=str)))

    def rows(self, first: int, rows: int, *, labels: Any, chances: Any, inputs: Any) -> None:
        """Raises AnswerRefused for an answer that has other rows than the question, or no end."""
        labels, chances = _listed(labels), _listed(chances)
        for answer in (labels, chances):
            if answer is not None and row_count(answer) != rows:
                told = f"The model gave {row_count(answer)} answers for {rows} rows."
                raise AnswerRefused("answer_unusable", told)
        for begin in range(0, rows, LINE_ROWS):
            self._some(first, begin, min(rows, begin + LINE_ROWS), labels, chances, inputs)

    def end(self, rows: int) -> None:
        self._line(b"e", orjson.dumps({"rows": rows}))

    def refusal(self, document: dict[str, Any]) -> None:
        self._line(b"r", base64.b64encode(orjson.dumps(document)))

    def _some(
        self, first: int, begin: int, end: int, labels: Any, chances: Any, inputs: Any
    ) -> None:
        given = None if inputs is None else [cells[begin:end] for cells in inputs.values()]
        content = b'{"at":%d,"predictions":%b,"probabilities":%b,"inputs":%b}' % (
            first + begin,
            json_of(labels[begin:end]),
            json_of(None if chances is None else chances[begin:end]),
            orjson.dumps(given, default=str),
        )
        if len(content) > LINE_BYTES and end - begin > 1:
            middle = (begin + end) // 2
            self._some(first, begin, middle, labels, chances, inputs)
            self._some(first, middle, end, labels, chances, inputs)
            return
        self._count(len(content), one=len(content) > LINE_BYTES)
        self._line(b"d", base64.b64encode(content))

    def _count(self, size: int, *, one: bool) -> None:
        self._bytes += size
        if one or self._bytes > self._most_bytes:
            what = "One answer" if one else "The answers"
            most = LINE_BYTES if one else self._most_bytes
            told = f"{what} of the model would be larger than {most // 1024**2} MiB."
            raise AnswerRefused("output_too_large", told)

    def _line(self, kind: bytes, content: bytes) -> None:
        self._output.write(b"%b %b\n" % (kind, content))
        self._output.flush()


def _listed(answer: Any) -> Any:
    """What has rows that can be taken apart."""
    if answer is None or isinstance(answer, np.ndarray):
        return answer
    return plain(answer)
