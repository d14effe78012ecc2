"""Makes an interpreter wait, its imports done, between its own start and its script.

The launcher starts Python on a script that is not known yet, with this folder first on its path:
`site` runs this file just before the interpreter goes on to the script. So what runs then is the
interpreter's own way of running a file, with no frame of ours below it: `__main__`, tracebacks,
exit codes, threads and the end are those of any Python, because this is one. Only the name of the
file has to be put in place, in the interpreter's configuration. Where that cannot be done this
process ends without having said that it is ready, and a fresh Python runs the script.

No code of the user's is imported here, and no credential is here before the order. Standard library
only, but for the modules that it imports on purpose.
"""

import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FD_VARIABLE = "MLOPS_WAITING_FD"
MODULES = ("numpy", "pandas", "sklearn", "mlflow", "mlflow.sklearn")
# What is searched of the state: the configuration begins at 1 kB in Python 3.11, at 8 kB in 3.13.
STATE_BYTES = 256 * 1024
# A Python that has imported nothing yet has a few MB.
SEARCHED_BYTES = 64 * 1024 * 1024
POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)
NO_OTHER_WAY = bytes(2 * POINTER_BYTES)
WIDE_BYTES = 4


class NotFit(Exception):
    """This process cannot stand in for a fresh one."""


class _Watched(os._Environ):
    """`os.environ` while modules are imported: remembers what they asked for."""

    asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        if isinstance(name, str):
            self.asked.add(name)
        return str(super().__getitem__(name))

    def __iter__(self) -> Iterator[str]:
        """Who lists them all sees that others are missing: each one counts as asked for."""
        raise NotFit("an import lists the variables")


class FileName:
    """The name of the file to run, in the interpreter's configuration, where it is replaced.

    The configuration is a part of the interpreter's state, at another place in each Python. It has
    three pointers in a row, to a command, a module and a file's name, of which one is set. So the
    very name that was given is looked for in the memory that can be written, and is used where the
    state has such a row that leads to it, and only one. Nothing else is followed.
    """

    def __init__(self, name: str) -> None:
        self._room = len(name)
        self._address = _address_of(name)

    def replace(self, name: str) -> None:
        if len(name) > self._room:
            raise NotFit("the name is too long")
        data = _wide(f"{name}\0")
        ctypes.memmove(self._address, data, len(data))


def _address_of(name: str) -> int:
    api = ctypes.PyDLL(None)
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    state, memory = api.PyInterpreterState_Get(), list(_writable_memory())
    held = ctypes.string_at(state, min(STATE_BYTES, _end_of_memory_at(state, memory) - state))
    places = _places_of(_wide(f"{name}\0"), memory)
    found = [address for address in places if NO_OTHER_WAY + _pointer(address) in held]
    if len(found) != 1:
        raise NotFit("the file's name is not where it is looked for")
    return found[0]


def _pointer(address: int) -> bytes:
    return address.to_bytes(POINTER_BYTES, sys.byteorder)


def _places_of(wanted: bytes, memory: list[tuple[int, int]]) -> Iterator[int]:
    for low, high in memory:
        if high - low > SEARCHED_BYTES:
            continue
        data = ctypes.string_at(low, high - low)
        place = data.find(wanted)
        while place >= 0:
            yield low + place
            place = data.find(wanted, place + 1)


def _end_of_memory_at(address: int, memory: list[tuple[int, int]]) -> int:
    """Of what can be read from there on without a gap; the address itself where nothing can."""
    end = address
    for low, high in sorted(memory):
        if low <= end < high:
            end = high
    return end


def _wide(text: str) -> bytes:
    """As C has it; by no codec, which would stay behind as a module of its own."""
    return b"".join(ord(each).to_bytes(WIDE_BYTES, sys.byteorder) for each in text)


def _writable_memory() -> Iterator[tuple[int, int]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        if rights.startswith("rw"):
            low, _, high = span.partition("-")
            yield int(low, 16), int(high, 16)


def _forget_this_folder() -> None:
    """Paths and variables as a fresh Python of the script's has them."""
    here = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != here]
    kept = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path != here]
    os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    sys.path_importer_cache.pop(here, None)


def _hidden_by_us() -> ModuleType | None:
    """The file of this name that a fresh Python would have run, run; None when there is none."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import_modules() -> dict[str, Any]:
    """What the launcher has to know: the variables that imports asked for and set, the modules."""
    before, kind = dict(os.environ), type(os.environ)
    os.environ.__class__ = _Watched
    try:
        for name in MODULES:
            _import(name)
    finally:
        os.environ.__class__ = kind
    after = dict(os.environ)
    if before.keys() - after.keys():
        raise NotFit("an import removed variables")
    return {
        "asked": {name: before.get(name) for name in sorted(_Watched.asked)},
        "changed": {name: value for name, value in after.items() if before.get(name) != value},
        "modules": sorted(sys.modules),
    }


def _import(name: str) -> None:
    """Unless the environment has none of that name, or one that needs another that is missing."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and "." not in name:
            raise NotFit(f"{name} cannot be imported") from error


def _set_aside_what_was_imported() -> None:
    """It lives to the end: no collection looks at it, least of all the last one, a second long.

    But for the script's own module, whose objects a script sees deleted at its end.
    """
    gc.collect()
    gc.freeze()
    untrack, track = ctypes.pythonapi.PyObject_GC_UnTrack, ctypes.pythonapi.PyObject_GC_Track
    for each in (sys.modules["__main__"], vars(sys.modules["__main__"])):
        untrack(ctypes.py_object(each))
        track(ctypes.py_object(each))


def _order(control: socket.socket) -> dict[str, Any] | None:
    """None when there will be none: whoever would have sent it is gone."""
    with control.makefile("rb") as lines:
        line = lines.readline()
    return dict(json.loads(line)) if line.endswith(b"\n") else None


def _wait(control: socket.socket) -> None:
    """Returns when the script may run; the process ends here when there will be none."""
    file_name = FileName(sys.orig_argv[-1])
    told = _import_modules()
    _set_aside_what_was_imported()
    control.sendall(f"{json.dumps(told)}\n".encode())
    order = _order(control)
    control.close()
    if order is None:
        os._exit(0)
    file_name.replace(order["path"])
    sys.argv[:] = [order["path"]]
    sys.orig_argv[-1] = order["path"]
    os.environ.clear()
    os.environ.update({**order["variables"], **told["changed"]})


def _become_ready() -> ModuleType | None:
    control = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
    _forget_this_folder()
    hidden = _hidden_by_us()
    try:
        _wait(control)
    except NotFit:
        os._exit(0)
    return hidden


_hidden = _become_ready()
if _hidden is None:
    # What a Python without such a file meets.
    raise ImportError("No module named 'sitecustomize'", name="sitecustomize")
# The import system keeps what it finds here now, and forgets this one.
sys.modules["sitecustomize"] = _hidden
