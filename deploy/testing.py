"""`make test`: every test, on a real engine, in an installation that exists for this run only."""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ctypes.util import find_library
from pathlib import Path

from deploy.accounts import CHECKOUT, remove_accounts
from deploy.docker_engine import apt_install, ensure_engine, ensure_image_tools
from deploy.report import Stop, step, warn
from deploy.servers import PostgresqlServer, missing_packages, postgresql
from sandbox.base_images import ImageFailed
from sandbox.container import RUNC, RUNSC
from sandbox.engine import Engine
from sandbox.firewall import remove as remove_rules
from sandbox.images import (
    ensure_runner_image,
    has_runner_image,
    remove_runner_image,
    runner_image_tag,
)
from sandbox.network import remove_networks

# The platform that the tests start as a whole is an installation of its own.
ROAD_SUFFIX = "-road"
# Kept between runs: environments are the slow part, and are found by what they hold.
ENVIRONMENTS = CHECKOUT / ".cache" / "test-environments"
UNIT_TESTS = "tests/unit"
# Pages that ask the database nothing that no other test asks it: once is enough.
PAGES = (
    *("compare", "environments", "features", "frame", "job_run", "models", "new_job", "queue"),
    *("rights", "saved", "script", "settings", "stock"),
)
ONCE = tuple(f"--ignore={UNIT_TESTS}/test_console_{name}.py" for name in PAGES)
# Minutes in which something that was killed is waited for: beside the rest of the road.
KILLS = "tests/road/test_processes.py"
MAIN_TESTS = ("tests/road", f"--ignore={KILLS}", "tests/mlflow")
# What takes about as long as those, by the name of its output. More at once would be no quicker:
# four keep two processors busy.
BESIDE = {
    "sandbox-and-chaos": "tests/docker tests/chaos",
    "units": UNIT_TESTS,
    "browser-kills-and-features": f"tests/browser {KILLS} tests/feast",
}
# Whose servers these are: not the tests'.
BACKING = ("DATABASE_URL", "REDIS_URL")
# Pytest's word for it, such as when -k chooses none of the unit tests.
NO_TESTS = 5
# Its exit code when no engine of its own can be made (`tests/gvisor.py`).
CANNOT = 3
RUNTIMES_VARIABLE = "MLOPS_TEST_RUNTIMES"
DOCKER_TESTS = "tests/docker"
# The contract's quick start is walked as it is printed, with curl; an engine that is killed has a
# network of its own.
TEST_TOOLS = {
    # The console in a real browser.
    "chromium": "chromium",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    # The console's own scripts.
    "node": "nodejs",
    # The engine asks it what runs in a container.
    "ps": "procps",
}
# What models of some kinds need wherever they are opened; here the tests open them.
TEST_LIBRARIES = {"gomp": "libgomp1"}


def test() -> int:
    """Returns pytest's exit code, or 1 when there is no engine to test on."""
    home = Path(tempfile.mkdtemp(prefix="mlops-test-"))
    installation_id = f"test-{secrets.token_hex(3)}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell that starts us in the background ignores it, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _ensure_gvisor()
        handle = ensure_engine(home)
    except Stop as stop:
        print(f"The tests need a Docker Engine. {stop}", file=sys.stderr)
        shutil.rmtree(home)
        return 1
    try:
        ensure_image_tools(handle.engine)
        _ensure_test_tools()
        # Whoever runs beside finds the base made.
        ensure_runner_image(handle.engine, installation_id=installation_id, report=step)
        return _run_suites(home, installation_id, handle.engine.runtimes())
    except (Stop, ImageFailed) as stop:
        print(stop, file=sys.stderr)
        return 1
    finally:
        # Also what a killed test left behind.
        for leftover in (installation_id, f"{installation_id}{ROAD_SUFFIX}"):
            remove_installation(handle.engine, leftover)
        handle.stop_daemon()
        shutil.rmtree(home, ignore_errors=True)


def _ensure_gvisor() -> None:
    """Before the engine: one that is started here is told of it at its start."""
    if shutil.which(RUNSC) or os.geteuid() != 0:
        return
    try:
        apt_install(RUNSC)
    except Stop as stop:
        warn(f"gVisor cannot be installed. {stop}")


def _ensure_test_tools() -> None:
    """What the tests use beside the engine. Raises Stop."""
    missing = [package for tool, package in TEST_TOOLS.items() if shutil.which(tool) is None]
    missing += [package for name, package in TEST_LIBRARIES.items() if find_library(name) is None]
    missing += missing_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        names = " ".join(missing)
        raise Stop(f"The tests need {names}: apt-get install {names}, or run make as root.")
    apt_install(*missing)


def _run_suites(home: Path, installation_id: str, runtimes: Sequence[str]) -> int:
    """Returns the first exit code that is not 0. Raises Stop when PostgreSQL cannot be started."""
    arguments = shlex.split(os.environ.get("PYTEST_ARGS", ""))
    if arguments:
        return _run_chosen(home, installation_id, runtimes, arguments)
    with ExitStack() as stack:
        others = [stack.enter_context(_beside(home, name)) for name in BESIDE]
        code = _run_chosen(home, installation_id, runtimes, [*MAIN_TESTS])
        if code == 0:
            step("The tests that ran beside are waited for, and printed")
        return next((each for each in (code, *(other.wait() for other in others)) if each), 0)


@contextmanager
def _beside(home: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run of its own for some of the tests: most of them wait for containers most of the time.

    What it says is shown when it has ended.
    """
    said = home / f"{name}.txt"
    step(f"Beside all others, printed at the end: {BESIDE[name]} ({said})")
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", "test"],
            cwd=CHECKOUT,
            env={**os.environ, "PYTEST_ARGS": BESIDE[name]},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
        print(said.read_text(errors="replace"), flush=True)


def _run_chosen(
    home: Path, installation_id: str, runtimes: Sequence[str], arguments: list[str]
) -> int:
    """The tests that were asked for on SQLite, then those of the rows once more, on PostgreSQL.

    Under gVisor too: on this engine where it knows it, else on one that is made for that.
    """
    step("The tests, on SQLite")
    here = ",".join(name for name in (RUNC, RUNSC) if name in runtimes)
    code = _pytest(home, installation_id, arguments, {RUNTIMES_VARIABLE: here, **_chosen()})
    if RUNSC not in runtimes and not _chosen() and _asks_for_docker(arguments):
        code = code or _gvisor_elsewhere()
    again = on_postgresql(arguments)
    if again is None:
        return code
    with postgresql(home / "postgresql") as server:
        step(f"The unit tests once more, on {_version(server)}")
        # The whole cluster goes anyway, and threads may still hold connections to the database.
        keeping = [*again, "--reuse-db"]
        once_more = _pytest(home, installation_id, keeping, {"DATABASE_URL": server.url})
    return code or (0 if once_more == NO_TESTS else once_more)


def _chosen() -> dict[str, str]:
    """What whoever runs the tests said of runtimes."""
    return {name: os.environ[name] for name in (RUNTIMES_VARIABLE,) if name in os.environ}


def _asks_for_docker(arguments: list[str]) -> bool:
    asked = [word for word in arguments if (CHECKOUT / word.partition("::")[0]).exists()]
    return not asked or any(
        word.startswith(DOCKER_TESTS) or DOCKER_TESTS.startswith(f"{word}/") for word in asked
    )


def _gvisor_elsewhere() -> int:
    """The sandbox's tests under gVisor on an engine of their own: this one knows none."""
    step(f"This Docker Engine knows no {RUNSC}: the sandbox under gVisor, on an engine of its own")
    code = subprocess.run([sys.executable, "-m", "tests.gvisor"], cwd=CHECKOUT).returncode
    if code == CANNOT:
        warn("The sandbox was NOT tested under gVisor. docs/SECURITY.md says how to register it.")
        return 0
    return code


def on_postgresql(arguments: list[str]) -> list[str] | None:
    """The same tests as far as they are unit tests; None when none of them is."""
    asked = [word for word in arguments if (CHECKOUT / word.partition("::")[0]).exists()]
    if not asked:
        return [*arguments, UNIT_TESTS, *ONCE]
    others = [word for word in asked if not f"{word}/".startswith(f"{UNIT_TESTS}/")]
    if len(others) == len(asked):
        return None
    once = ONCE if UNIT_TESTS in asked else ()
    return [*(word for word in arguments if word not in others), *once]


def _version(server: PostgresqlServer) -> str:
    return f"PostgreSQL {str(server.ask('SHOW server_version')[0][0]).split()[0]}"


def _pytest(
    home: Path, installation_id: str, arguments: list[str], variables: Mapping[str, str]
) -> int:
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name not in BACKING}
    environment = {
        **inherited,
        **variables,
        "MLOPS_HOME": str(home),
        "MLOPS_INSTALLATION_ID": installation_id,
        "MLOPS_ENVIRONMENTS_DIR": str(ENVIRONMENTS),
        # Each pytest closes the common folder to other accounts, under the feet of those that run.
        "PYTEST_DEBUG_TEMPROOT": str(home),
    }
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
