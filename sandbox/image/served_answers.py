"""Turns what a model answered into JSON; what is not a number becomes null, and size has an end."""

import math
import sys
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson

T = TypeVar("T")
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# What orjson writes from memory; float32 is not there, since it would write fewer digits.
DIRECT = frozenset(["float64", "int64", "int32", "uint64", "uint32", "bool"])


class AnswerRefused(Exception):
    """The model's answer cannot be passed on; `code` and `detail` say why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Result:
    """What a model answered for one request, as it gave it."""

    labels: Any
    chances: Any
    classes: list[Any] | None
    milliseconds: float


def encoded(result: Result) -> bytes:
    """The four keys of an answer, in their order. Raises AnswerRefused."""
    classes = None if result.chances is None else result.classes
    return b'{"predictions":%b,"probabilities":%b,"classes":%b,"inference_time_ms":%b}' % (
        json_of(result.labels),
        json_of(result.chances),
        orjson.dumps(classes),
        orjson.dumps(round(result.milliseconds, 4)),
    )


def json_of(value: Any) -> bytes:
    """Raises AnswerRefused."""
    _check_size(getattr(value, "nbytes", 0))
    try:
        body = _direct(value) or _by_hand(value)
    except (orjson.JSONEncodeError, RecursionError, TypeError, ValueError, MemoryError) as error:
        detail = f"The model's answer is nothing that JSON can say: {type(error).__name__}."
        raise AnswerRefused("answer_unusable", detail) from error
    _check_size(len(body))
    return body


def row_count(value: Any) -> int | None:
    """How many rows an answer has; None for one that is no list of rows."""
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sized):
        return None
    return len(value)


def plain(value: Any) -> Any:
    """Numbers, texts and lists that JSON knows; what is not a number becomes null."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return [plain(record) for record in value.to_dict(orient="records")]
    if pandas is not None and isinstance(value, pandas.Series | pandas.Index):
        return plain(value.to_numpy())
    if isinstance(value, np.ndarray):
        finite = value.dtype.kind in "biu" or (value.dtype.kind == "f" and np.isfinite(value).all())
        return value.tolist() if finite else [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _direct(value: Any) -> bytes | None:
    if value is None:
        return b"null"
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.name in DIRECT:
        ordered = np.ascontiguousarray(value)
        return orjson.dumps(ordered, option=orjson.OPT_SERIALIZE_NUMPY)
    return None


def _by_hand(value: Any) -> bytes:
    return orjson.dumps(plain(value), option=orjson.OPT_NON_STR_KEYS, default=str)


def _check_size(size: int) -> None:
    if size > MAX_ANSWER_BYTES:
        raise AnswerRefused(
            "answer_too_large",
            f"The model's answer is larger than {MAX_ANSWER_BYTES // 1024**2} MB; "
            "send fewer rows at a time.",
        )


def attempt(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """What came of it, or what it raised: a stranger's code may raise whatever there is."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 (SystemExit of a model must not end its server)
        return None, error
