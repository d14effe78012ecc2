"""Bytecode for a folder of packages, kept beside uv's cache: each source is compiled once, not once
for each environment that has it.

Paths are texts here: of `pathlib`'s, half of the time for thousands of files would be its own.
Standard library only, and nothing of the packages is imported: their `.pth` files would run code of
theirs here. What is kept is found by the source's content, its place and its time, which the
bytecode names, and is written only from that content; so no package can have another's replaced.
"""

import contextlib
import hashlib
import importlib.util
import os
import py_compile
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path


def compile_all(paths: Sequence[str], folder: Path, *, shown_as: str, kept: Path) -> bool:
    """Whether all could be written. `folder` will be seen as `shown_as`; `kept` may be missing.

    Each process takes every so many-th file, the largest first, since handing them out one by one
    costs a quarter of the time (`bench/environments.py`). Files that are not valid for this Python
    (templates, test data) are no failure: their import is.
    """
    largest = sorted(paths, key=os.path.getsize, reverse=True)
    count = len(os.sched_getaffinity(0))
    shares = [largest[start::count] for start in range(count)]
    children = [_forked(share, folder, shown_as, kept) for share in shares]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return not any(codes)


def forget_unused(kept: Path) -> None:
    """Removes what no environment shares."""
    for parent, _, names in os.walk(kept):
        for path in (Path(parent, name) for name in names):
            if path.lstat().st_nlink == 1:
                path.unlink()


def _forked(paths: Sequence[str], folder: Path, shown_as: str, kept: Path) -> int:
    """The id of a process that compiles these; it ends with 1 when the disk takes no more."""
    child = os.fork()
    if child:
        return child
    code = 1
    # Packages' own warnings (an escape that is none) are nobody's business here.
    warnings.simplefilter("ignore")
    try:
        for path in paths:
            with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError):
                _compile(path, shown_as + path[len(str(folder)) :], kept)
        code = 0
    except OSError as error:
        print(f"Compiling failed: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _compile(path: str, shown: str, kept: Path) -> None:
    target = importlib.util.cache_from_source(path)
    known = f"{kept}/{_name(path, shown)}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(target))
    # What a wheel brought under this name is not what its source says.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    with contextlib.suppress(OSError):
        os.link(known, target)
        return
    py_compile.compile(path, cfile=target, dfile=shown, doraise=True)
    if kept.is_dir():
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(known))
        # Another process was first, or a file has as many names as the disk allows.
        with contextlib.suppress(OSError):
            os.link(target, known)


def _name(path: str, shown: str) -> str:
    """Of all that is in the bytecode: its Python, the place that it names, time, size, content."""
    with open(path, "rb", buffering=0) as source:
        about = os.fstat(source.fileno())
        said = f"{sys.version}\0{shown}\0{int(about.st_mtime)}\0{about.st_size}\0".encode()
        digest = hashlib.sha256(said + source.read()).hexdigest()
    return f"{digest[:2]}/{digest}"
