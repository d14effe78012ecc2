"""A platform of its own for a benchmark: installed, started, and removed at the end."""

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.testing import remove_installation
from deploy.trial import NO_VARIABLES, Platform, start_platform, stop_platform
from sandbox.engine import Engine


@contextmanager
def own_platform(engine: Engine, variables: Mapping[str, str] = NO_VARIABLES) -> Iterator[Platform]:
    """What it said is printed when something fails. `variables` are what an operator sets."""
    name = f"test-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        Path(folder).chmod(0o755)
        try:
            platform = start_platform(Path(folder) / "var", name, variables=variables)
            try:
                yield platform
            except BaseException:
                print(platform.said())
                raise
            finally:
                stop_platform(platform)
        finally:
            remove_installation(engine, name)


def resident_mb(pid: int) -> float:
    """MiB that the process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")
