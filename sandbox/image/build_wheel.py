"""Builds one source distribution into a wheel; the source's own code runs here, and may be hostile.

So this container has no network, no password, and nothing mounted but the folder of this one build.
`ask` asks the build backend first what else it needs (`needs.json`), and builds only when that is
nothing; `build` does not ask.
"""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UV = "/opt/mlops/uv"
FOLDER = Path("/store")
NEEDED = FOLDER / "needed"
NEEDS = FOLDER / "needs.json"
SOURCE = FOLDER / "source.tar.gz"
# Where files may be executed: build tools try what the compiler makes.
SCRATCH = FOLDER / "scratch"
BUILD_FAILED, NEEDS_MORE = 8, 9
# PEP 517: what builds a source that does not say.
USUAL_BACKEND = "setuptools.build_meta:__legacy__"
HOOK = """
import functools, importlib, json, sys
sys.path[:0] = json.loads(sys.argv[2])
module, _, path = sys.argv[1].partition(":")
backend = functools.reduce(getattr, filter(None, path.split(".")), importlib.import_module(module))
asked = getattr(backend, "get_requires_for_build_wheel", lambda settings: [])
needs = list(map(str, asked(None) or []))
with open(sys.argv[3], "w") as file:
    json.dump(needs, file)
"""


def main() -> int:
    SCRATCH.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(NEEDED),
        "PATH": f"{NEEDED / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(SCRATCH),
    }
    if sys.argv[1] == "ask" and _needs_more(environment):
        return NEEDS_MORE
    command = [UV, "build", "--wheel", "--no-config", "--no-cache", "--offline"]
    command += ["--no-build-isolation", "--python", sys.executable]
    command += ["--out-dir", str(FOLDER / "out"), str(SOURCE)]
    return BUILD_FAILED if subprocess.run(command, env=environment).returncode else 0


def _needs_more(environment: Mapping[str, str]) -> bool:
    """Whether the backend named something. One that cannot be asked cannot build, and says why."""
    root = _unpacked()
    if root is None:
        return False
    backend, paths = _backend_of(root)
    command = [sys.executable, "-c", HOOK, backend, json.dumps(paths), str(NEEDS)]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    return done.returncode == 0 and bool(json.loads(NEEDS.read_text()))


def _unpacked() -> Path | None:
    """The source's one folder; None when it is not as a source has to be: the build says so."""
    target = SCRATCH / "asked"
    try:
        with tarfile.open(SOURCE) as archive:
            # Wherever it leads to: everything that this process may write to is this build's own.
            archive.extraction_filter = lambda member, path: member
            archive.extractall(target)  # noqa: S202
        (root,) = target.iterdir()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        return None
    return root


def _backend_of(root: Path) -> tuple[str, list[str]]:
    """Its name, and the folders of the source that it is looked for in first."""
    project = root / "pyproject.toml"
    system: dict[str, Any] = {}
    if project.is_file():
        system = tomllib.loads(project.read_text()).get("build-system", {})
    folders = [str(root / folder) for folder in system.get("backend-path", [])]
    return system.get("build-backend", USUAL_BACKEND), folders


if __name__ == "__main__":
    sys.exit(main())
