"""`make test`: every test, on a real engine, in an installation that exists for this run only."""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.accounts import CHECKOUT
from deploy.docker_engine import ensure_engine, ensure_image_tools
from deploy.report import Stop
from sandbox.engine import Engine
from sandbox.images import remove_runner_image
from sandbox.network import remove_networks

# Kept between runs: environments are the slow part, and are found by what they hold.
ENVIRONMENTS = CHECKOUT / ".cache" / "test-environments"


def test() -> int:
    """Returns pytest's exit code, or 1 when there is no engine to test on."""
    home = Path(tempfile.mkdtemp(prefix="mlops-test-"))
    installation_id = f"test-{secrets.token_hex(3)}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        handle = ensure_engine(home)
    except Stop as stop:
        print(f"The tests need a Docker Engine. {stop}", file=sys.stderr)
        shutil.rmtree(home)
        return 1
    try:
        ensure_image_tools(handle.engine)
        return _pytest(home, installation_id)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    finally:
        _remove(handle.engine, installation_id)
        handle.stop_daemon()
        shutil.rmtree(home, ignore_errors=True)


def _pytest(home: Path, installation_id: str) -> int:
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "MLOPS_HOME": str(home),
        "MLOPS_INSTALLATION_ID": installation_id,
        "MLOPS_ENVIRONMENTS_DIR": str(ENVIRONMENTS),
    }
    arguments = shlex.split(os.environ.get("PYTEST_ARGS", ""))
    command = [sys.executable, "-m", "pytest", *arguments]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _remove(engine: Engine, installation_id: str) -> None:
    """Also what a killed test left behind."""
    for state in engine.find({"mlops.installation": installation_id}):
        engine.remove(state.id)
    remove_networks(engine, installation_id)
    remove_runner_image(engine, installation_id)
