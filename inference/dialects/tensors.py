"""Tensors of the Open Inference Protocol as plain values; the web process has no use for numpy."""

import array
import itertools
import math
import struct
import sys
from dataclasses import dataclass
from typing import Any

from inference.refusals import refusal

# struct's letter and the width of each; BYTES and BOOL are read by hand.
CODES = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
FLOATING = frozenset({"FP16", "FP32", "FP64"})
DIMENSIONS_MOST = 2
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """One named tensor, its data flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


def read_tensors(listed: Any, binary: bytes) -> list[Tensor]:
    """`inputs` of a request; binary ones come one after another. Raises Refused."""
    if not isinstance(listed, list) or not listed:
        raise refusal(400, "invalid_request", "inputs must be a list of at least one tensor.")
    at, tensors = 0, []
    for index, each in enumerate(listed):
        if not isinstance(each, dict):
            raise refusal(400, "invalid_request", f"inputs[{index}] must be an object.")
        name = str(each.get("name", f"input-{index}"))
        shape = _shape(each.get("shape"), name)
        datatype = str(each.get("datatype", ""))
        size = _binary_size(each)
        if size is None:
            data = _flat(each.get("data"), name)
        else:
            if size > len(binary) - at:
                raise refusal(400, "invalid_request", f"{name}: its binary data is cut off.")
            data = _unpacked(binary[at : at + size], datatype, name)
            at += size
        if len(data) != math.prod(shape):
            told = f"{name}: shape {list(shape)} needs {math.prod(shape)} values, got {len(data)}."
            raise refusal(400, "invalid_request", told)
        tensors.append(Tensor(name, datatype, shape, _valued(data, datatype)))
    return tensors


def table_of(tensors: list[Tensor]) -> Any:
    """Rows of the one tensor with two dimensions, or columns by name. Raises Refused."""
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2:
        width = first.shape[1]
        return [first.data[at : at + width] for at in range(0, len(first.data), width or 1)]
    wide = next((each for each in tensors if len(each.shape) == 2 and each.shape[1] != 1), None)
    if wide is not None:
        told = f"{wide.name}: of several tensors each is one column, of shape [n] or [n, 1]."
        raise refusal(400, "invalid_request", told)
    return {each.name: each.data for each in tensors}


def output_tensors(said: dict[str, Any], wanted: list[str]) -> list[Tensor]:
    """What the model said, as the outputs that were asked for."""
    found = {"predict": said["predictions"], "predict_proba": said["probabilities"]}
    return [_output(name, [] if found[name] is None else found[name]) for name in wanted]


def _output(name: str, said: Any) -> Tensor:
    """Whatever a model says is a tensor: what is no list is one value."""
    values = said if isinstance(said, list) else [said]
    widths = {len(row) if isinstance(row, list) else -1 for row in values}
    nested = len(widths) == 1 and widths.isdisjoint({-1})
    shape = (len(values), len(values[0])) if nested else (len(values),)
    flat = list(itertools.chain.from_iterable(values)) if nested else values
    return Tensor(name, _datatype(flat), shape, flat)


def _datatype(values: list[Any]) -> str:
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float, bool} else "BYTES"


def _shape(shape: Any, name: str) -> tuple[int, ...]:
    fits = isinstance(shape, list) and 1 <= len(shape) <= DIMENSIONS_MOST
    if not fits or not all(type(size) is int and size >= 0 for size in shape):
        raise refusal(400, "invalid_request", f"{name}: shape must be [n] or [n, columns].")
    return tuple(shape)


def _binary_size(each: dict[str, Any]) -> int | None:
    parameters = each.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if type(size) is int and size >= 0 else None


def _flat(data: Any, name: str) -> list[Any]:
    if not isinstance(data, list):
        raise refusal(400, "invalid_request", f"{name}: data must be a list.")
    if data and all(isinstance(row, list) for row in data):
        return list(itertools.chain.from_iterable(data))
    return data


def _unpacked(data: bytes, datatype: str, name: str) -> list[Any]:
    """Little-endian, as the extension has it. Raises Refused."""
    if datatype == "BOOL":
        return [byte != 0 for byte in data]
    if datatype == "BYTES":
        return _texts(data, name)
    if datatype == "FP16":
        if len(data) % 2:
            raise refusal(400, "invalid_request", f"{name}: its binary data is cut off.")
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    code = CODES.get(datatype)
    if code is None:
        raise refusal(400, "invalid_request", f"{name}: datatype {datatype[:20]} is not known.")
    values = array.array(code)
    if len(data) % values.itemsize:
        raise refusal(400, "invalid_request", f"{name}: its binary data is cut off.")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _texts(data: bytes, name: str) -> list[str]:
    at, texts = 0, []
    while at + LENGTH.size <= len(data):
        (size,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        texts.append(data[at : at + size].decode(errors="replace"))
        at += size
    if at != len(data):
        raise refusal(400, "invalid_request", f"{name}: its binary data is cut off.")
    return texts


def _valued(data: list[Any], datatype: str) -> list[Any]:
    """NaN and infinities are missing values: JSON has no others."""
    if datatype not in FLOATING:
        return data
    return [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in data]
