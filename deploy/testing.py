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

from deploy.accounts import CHECKOUT, remove_accounts
from deploy.docker_engine import apt_install, ensure_engine, ensure_image_tools
from deploy.report import Stop
from sandbox.engine import Engine
from sandbox.firewall import remove as remove_rules
from sandbox.images import has_runner_image, remove_runner_image, runner_image_tag
from sandbox.network import remove_networks

# The platform that the tests start as a whole is an installation of its own.
ROAD_SUFFIX = "-road"
# Kept between runs: environments are the slow part, and are found by what they hold.
ENVIRONMENTS = CHECKOUT / ".cache" / "test-environments"
# The contract's quick start is walked as it is printed, with curl; an engine that is killed has a
# network of its own.
TEST_TOOLS = {"curl": "curl", "ip": "iproute2"}


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
        _ensure_test_tools()
        return _pytest(home, installation_id)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    finally:
        # Also what a killed test left behind.
        for leftover in (installation_id, f"{installation_id}{ROAD_SUFFIX}"):
            remove_installation(handle.engine, leftover)
        handle.stop_daemon()
        shutil.rmtree(home, ignore_errors=True)


def _ensure_test_tools() -> None:
    """What the tests use beside the engine. Raises Stop."""
    missing = [package for tool, package in TEST_TOOLS.items() if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() != 0:
        names = " ".join(missing)
        raise Stop(f"The tests need {names}: apt-get install {names}, or run make as root.")
    apt_install(*missing)


def _pytest(home: Path, installation_id: str) -> int:
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "MLOPS_HOME": str(home),
        "MLOPS_INSTALLATION_ID": installation_id,
        "MLOPS_ENVIRONMENTS_DIR": str(ENVIRONMENTS),
        # Each pytest closes the common folder to other accounts, under the feet of those that run.
        "PYTEST_DEBUG_TEMPROOT": str(home),
    }
    arguments = shlex.split(os.environ.get("PYTEST_ARGS", ""))
    # Not pytest's usual folder: another run closes that to the accounts of our processes.
    own_folder = ["--basetemp", str(home / "pytest")]
    command = [sys.executable, "-m", "pytest", *own_folder, *arguments]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def remove_installation(engine: Engine, installation_id: str) -> None:
    """Everything of an installation that nobody needs: containers, rules, image, accounts."""
    for state in engine.find({"mlops.installation": installation_id}):
        engine.remove(state.id)
    remove_networks(engine, installation_id)
    if has_runner_image(engine, installation_id):
        image = runner_image_tag(installation_id)
        remove_rules(engine, image=image, installation_id=installation_id)
    remove_runner_image(engine, installation_id)
    remove_accounts(installation_id)
