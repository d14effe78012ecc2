"""Builds one source distribution into a wheel; the source's own code runs here, and may be hostile.

So this container has no network, no password, and nothing mounted but the folder of this one build.
"""

import os
import subprocess
import sys
from pathlib import Path

UV = "/opt/mlops/uv"
FOLDER = Path("/store")
BUILD_FAILED = 8


def main() -> int:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER / "needed")}
    command = [UV, "build", "--wheel", "--no-config", "--no-cache", "--offline"]
    command += ["--no-build-isolation", "--python", sys.executable]
    command += ["--out-dir", str(FOLDER / "out"), str(FOLDER / "source.tar.gz")]
    return BUILD_FAILED if subprocess.run(command, env=environment).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
