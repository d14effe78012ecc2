"""Tree ensembles through treelite's shared library alone: no compiler, no Python package of it.

`treelite` itself imports SciPy, which takes longer than everything else that a server of a compact
form needs. A checkpoint is read by C++ that trusts it: only inside the model's own container.
"""

import ctypes
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"float32": (np.float32, b"float32"), "float64": (np.float64, b"float64")}
# What is asked for: the ensemble's own answer, or what each tree says.
SUMMED = b'{"predict_type": "default", "nthread": 1}'
EACH_TREE = b'{"predict_type": "score_per_tree", "nthread": 1}'


class TreesUnreadable(Exception):
    """The library is not there, or will not take this checkpoint."""


class Trees:
    """One ensemble. `answer` gives what treelite gives: rows × targets × classes."""

    def __init__(self, checkpoint: bytes, wanted: bytes = SUMMED) -> None:
        """Raises TreesUnreadable."""
        self._library = _library()
        self._model = ctypes.c_void_p()
        self._config = ctypes.c_void_p()
        buffer = ctypes.create_string_buffer(checkpoint, len(checkpoint))
        self._call(
            "TreeliteDeserializeModelFromBytes",
            buffer,
            ctypes.c_size_t(len(checkpoint)),
            ctypes.byref(self._model),
        )
        self._call("TreeliteGTILParseConfig", wanted, ctypes.byref(self._config))
        self._kind, self._kind_name = KINDS[self._told("TreeliteGetInputType")]
        self._output = KINDS[self._told("TreeliteGetOutputType")][0]
        width = ctypes.c_int()
        self._call("TreeliteQueryNumFeature", self._model, ctypes.byref(width))
        self.width = width.value
        self._shape = self._shape_of_one()

    @property
    def numbers(self) -> int:
        """How many are in the answer to one row."""
        return math.prod(self._shape)

    def answer(self, rows: Any) -> Any:
        """Raises TreesUnreadable for a matrix of another width: the library reads past its end."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise TreesUnreadable(f"{rows.shape} is no matrix of {self.width} columns")
        data = np.ascontiguousarray(rows, dtype=self._kind)
        result = np.zeros((len(data), *self._shape), dtype=self._output)
        self._call(
            "TreeliteGTILPredict",
            self._model,
            ctypes.c_void_p(data.ctypes.data),
            self._kind_name,
            ctypes.c_uint64(len(data)),
            ctypes.c_void_p(result.ctypes.data),
            self._config,
        )
        return result

    def _shape_of_one(self) -> tuple[int, ...]:
        sizes, count = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        self._call(
            "TreeliteGTILGetOutputShape",
            self._model,
            ctypes.c_uint64(1),
            self._config,
            ctypes.byref(sizes),
            ctypes.byref(count),
        )
        return tuple(sizes[place] for place in range(1, count.value))

    def _told(self, name: str) -> str:
        text = ctypes.c_char_p()
        self._call(name, self._model, ctypes.byref(text))
        return (text.value or b"").decode()

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            self._library.TreeliteGetLastError.restype = ctypes.c_char_p
            raise TreesUnreadable(self._library.TreeliteGetLastError().decode(errors="replace"))


_loaded: list[Any] = []


def _library() -> Any:
    if not _loaded:
        folders = (Path(entry) / "treelite" / "lib" for entry in sys.path)
        found = next((path for one in folders if (path := one / "libtreelite.so").is_file()), None)
        if found is None:
            raise TreesUnreadable("treelite is not installed beside the server")
        _loaded.append(ctypes.CDLL(str(found)))
    return _loaded[0]
