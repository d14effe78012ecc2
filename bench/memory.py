"""What the platform's processes hold: PSS, which counts a shared page once over all of them."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SETTLE_ROUNDS = 12
SETTLE_SECONDS = 5
SETTLED_WITHIN = 0.01
KIB_PER_MB = 1000 * 1000 / 1024


def settled_megabytes(roots: Mapping[str, int], *, manager: int | None = None) -> dict[str, float]:
    """MB of each tree of processes by its name, once two looks in a row agree.

    `roots` names the first process of each tree; `manager` is one that counts without its children,
    since they are the trees.
    """
    before = _megabytes(roots, manager)
    for _ in range(SETTLE_ROUNDS):
        # Nothing tells when memory has settled: only looking twice does.
        time.sleep(SETTLE_SECONDS)
        now = _megabytes(roots, manager)
        if abs(sum(now.values()) - sum(before.values())) <= SETTLED_WITHIN * sum(now.values()):
            return now
        before = now
    return before


def _megabytes(roots: Mapping[str, int], manager: int | None) -> dict[str, float]:
    found = {name: sum(map(_pss, _tree(pid))) / KIB_PER_MB for name, pid in roots.items()}
    if manager is not None:
        found["manager"] = _pss(manager) / KIB_PER_MB
    return found


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(task).split():
            yield from _tree(int(child))


def _pss(pid: int) -> int:
    """KiB; 0 for a process that has just ended."""
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    """Empty when the process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
