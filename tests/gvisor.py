"""`python -m tests.gvisor`: the tests of the sandbox under gVisor, on a Docker Engine of their own.

For a machine whose engine is somebody else's and knows no gVisor: nothing of that one is changed.
Environments have to be there already, since the namespace of its own has no network.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.accounts import CHECKOUT
from sandbox.container import RUNSC
from tests.chaos.__main__ import prepare
from tests.chaos.own_engine import (
    OwnEngine,
    can_be_made,
    leave_process_one,
    prepare_namespace,
    run_inside,
)

SECONDS = 900
CANNOT = 3
TESTS = (
    "tests/docker/hostile",
    "tests/docker/test_sandbox_check.py",
    "tests/docker/test_instant_start.py::test_many_scripts_cannot_tell_it_from_a_fresh_container",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", nargs="?", choices=["inside"])
    parser.add_argument("--folder", type=Path, help="with the base image in it; for `inside`")
    options = parser.parse_args()
    if options.where == "inside":
        return _inside(options.folder)
    if not can_be_made() or shutil.which(RUNSC) is None:
        print(f"This needs root, dockerd, unshare and {RUNSC}.", file=sys.stderr)
        return CANNOT
    with tempfile.TemporaryDirectory(prefix="mlops-gvisor-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        prepare(folder)
        arguments = ["--folder", name]
        return run_inside(arguments, module="tests.gvisor", timeout_seconds=SECONDS)


def _inside(folder: Path) -> int:
    leave_process_one()
    prepare_namespace()
    own = OwnEngine(folder / "engine")
    own.start()
    own.load(folder / "base.tar")
    (folder / "base.tar").unlink()
    variables = {**os.environ, "MLOPS_TEST_RUNTIMES": RUNSC, "MLOPS_INSTALLATION_ID": ""}
    command = [sys.executable, "-m", "pytest", "--basetemp", str(folder / "pytest"), *TESTS]
    return subprocess.run(command, cwd=CHECKOUT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main())
