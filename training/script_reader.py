"""Reads a Python script from standard input and prints what can be said of it without running it.

Run as a process of its own, with `-I -S`: parsing a hostile megabyte takes hundreds of megabytes,
or overflows the C stack. Bounds itself before it reads anything, and gives up the rights of root:
whoever finds a mistake in Python's parser is nobody here. Standard library only; nothing of the
script is executed or imported.
"""

import ast
import encodings
import json
import os
import resource
import sys
import warnings
from collections.abc import Iterator
from typing import Any

MEMORY_BYTES = 768 * 1024 * 1024
CPU_SECONDS = 8
# An account that has nothing and that nothing runs as, of the numbers that no system gives out;
# small enough for a container whose users are mapped.
NOBODY = 65_533
IMPORTS_MAX = 500
NAME_MAX = 200
LOGGING_NAMES = frozenset({"log_model", "autolog"})
IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
CONDITIONAL = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If, ast.While, ast.For)
TRIES = (ast.Try, ast.TryStar)


def main() -> None:
    _bound_myself()
    _give_up_rights()
    warnings.simplefilter("ignore")
    json.dump(read(sys.stdin.buffer.read()), sys.stdout)


def read(source: bytes) -> dict[str, Any]:
    """`error` with a place, or `imports` and `logs_model`, or `unread` when it is too much."""
    try:
        tree = ast.parse(source, "script.py")
        found = _facts(tree)
        # Finds what the grammar allows and Python does not, such as `return` outside a function.
        compile(tree, "script.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        return {"unread": True} if _may_be_ours(error) else {"error": _told(error)}
    except (RecursionError, MemoryError, ValueError):
        return {"unread": True}
    return found


def _bound_myself() -> None:
    bounds = (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
    )
    for kind, bound in bounds:
        resource.setrlimit(kind, (bound, bound))


def _give_up_rights() -> None:
    """Here, not by who starts us: nobody may be unable to read the interpreter."""
    if os.geteuid() != 0:
        return
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _may_be_ours(error: SyntaxError) -> bool:
    """An encoding is a module, which nobody can load where the interpreter is somebody's own."""
    unknown = "encoding" in str(error.msg)
    return unknown and not os.access(encodings.__file__, os.R_OK)


def _told(error: SyntaxError) -> dict[str, Any]:
    return {
        "detail": f"{type(error).__name__}: {error.msg}"[:NAME_MAX],
        "line": error.lineno,
        "column": error.offset,
        "text": (error.text or "").rstrip()[:NAME_MAX],
    }


def _facts(tree: ast.Module) -> dict[str, Any]:
    """Walks without recursion: a script may be nested as deep as it likes.

    `certain` is an import that always runs; `guarded` one whose failure the script expects.
    """
    imports: list[dict[str, Any]] = []
    logs_model = False
    waiting: list[tuple[ast.AST, bool, bool]] = [(tree, True, False)]
    while waiting:
        node, certain, guarded = waiting.pop()
        logs_model = logs_model or _names_logging(node)
        if isinstance(node, ast.Import | ast.ImportFrom) and len(imports) < IMPORTS_MAX:
            known = {"line": node.lineno, "column": node.col_offset + 1}
            known |= {"certain": certain, "guarded": guarded}
            imports += [{"module": name[:NAME_MAX], **known} for name in _modules(node)]
        waiting += _below(node, certain, guarded)
    imports.sort(key=lambda found: (found["line"], found["column"]))
    return {"imports": imports[:IMPORTS_MAX], "logs_model": logs_model}


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """A leading dot marks a relative import."""
    if isinstance(node, ast.ImportFrom):
        return ["." * node.level + (node.module or "")]
    return [alias.name for alias in node.names]


def _below(node: ast.AST, certain: bool, guarded: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    expects = isinstance(node, TRIES) and _expects_import_error(node)
    certain = certain and not isinstance(node, CONDITIONAL)
    if not expects:
        yield from ((child, certain, guarded) for child in ast.iter_child_nodes(node))
        return
    for child in ast.iter_child_nodes(node):
        tried = child in node.body or child in node.handlers  # type: ignore[attr-defined]
        yield child, certain, guarded or tried


def _expects_import_error(node: ast.AST) -> bool:
    for handler in node.handlers:  # type: ignore[attr-defined]
        if handler.type is None:
            return True
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if any(isinstance(kind, ast.Name) and kind.id in IMPORT_ERRORS for kind in kinds):
            return True
    return False


def _names_logging(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in LOGGING_NAMES
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in LOGGING_NAMES for alias in node.names)
    return False


if __name__ == "__main__":
    main()
