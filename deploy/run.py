"""`make run`: from whatever this machine is to a platform that answers; Ctrl-C ends all of it."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from deploy.accounts import CHECKOUT, ensure_accounts
from deploy.addresses import DEFAULT_PORT, Address, check_port, mlflow_port, web_address
from deploy.backing import Backing, read_backing, wait_for_backing
from deploy.docker_engine import EngineHandle, ensure_engine, ensure_image_tools
from deploy.health import wait_until_ready
from deploy.home import Home, lock_home, open_home
from deploy.process_plan import RUNTIME_VARIABLE, Plan
from deploy.processes import GaveUp, ProcessManager
from deploy.report import Stop, box, step, timed_step, warn
from registry.features import DONE_FILE
from sandbox import firewall
from sandbox.build_rules import BuildRules, InvalidSetting, rules_from
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.environments import EnvironmentFailed, EnvironmentStore
from sandbox.images import (
    ImageFailed,
    ImageInfo,
    base_names,
    ensure_runner_images,
    has_runner_image,
    package_names,
    runner_image_tag,
)
from sandbox.network import Networks, ensure_networks

WATCH_SECONDS = 0.5
BUILD_SECONDS = 900
# Debian and the official images mend their holes within this time.
BASE_MAX_AGE_DAYS = "30"
STOP_JOBS_SECONDS = 60


@dataclass(frozen=True)
class _Choices:
    """What the operator chose of what lies outside: servers, and where packages come from."""

    backing: Backing
    rules: BuildRules


@dataclass
class _Started:
    """How far the start came: what is there is what has to be stopped."""

    handle: EngineHandle | None = None
    plan: Plan | None = None

    @property
    def engine(self) -> Engine:
        assert self.handle is not None  # noqa: S101 - nobody asks before there is one
        return self.handle.engine


def run() -> int:
    """Returns the exit code. Everything that was started is stopped, however this ends."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: _interrupt(stopping))
    try:
        home = open_home(Path(os.environ.get("MLOPS_HOME", CHECKOUT / "var")).resolve())
        address = web_address()
        rules = _build_rules()
        lock = lock_home(home)
        check_port(address)
        backing = read_backing(home, os.environ)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    try:
        return _run(home, address, _Choices(backing, rules), stopping)
    finally:
        os.close(lock)


def _interrupt(stopping: threading.Event) -> None:
    """The first signal ends the wait or the step that runs; a second one changes nothing."""
    if not stopping.is_set():
        stopping.set()
        raise KeyboardInterrupt


def _build_rules() -> BuildRules:
    """Raises Stop for a setting that no environment could be built with."""
    try:
        return rules_from(os.environ)
    except InvalidSetting as error:
        raise Stop(str(error)) from error


def _run(home: Home, address: Address, choices: _Choices, stopping: threading.Event) -> int:
    manager = ProcessManager(logs=home.folder("logs"))
    started = _Started()
    code = 0
    try:
        wait_for_backing(home, choices.backing)
        started.handle = ensure_engine(home.folder("logs"))
        _start(home, address, choices, started, manager)
        while not stopping.wait(WATCH_SECONDS):
            manager.check()
            started.handle.check()
    except KeyboardInterrupt:
        print(flush=True)
    except (Stop, GaveUp, ImageFailed) as stop:
        print(stop, file=sys.stderr)
        code = 1
    except EnvironmentFailed as failed:
        print(f"{failed.detail}\n{failed.hint}", file=sys.stderr)
        code = 1
    except (EngineError, EngineUnavailable) as error:
        print(f"Docker failed: {error}", file=sys.stderr)
        code = 1
    finally:
        stopping.set()
        _stop(home, manager, started)
    return code


def _start(
    home: Home,
    address: Address,
    choices: _Choices,
    started: "_Started",
    manager: ProcessManager,
) -> None:
    engine = started.engine
    ensure_image_tools(engine, _base_packages())
    accounts = ensure_accounts(home)
    networks = ensure_networks(engine, home.installation_id)
    port = mlflow_port(home, networks)
    plan = Plan(
        home,
        address,
        accounts,
        networks,
        backing=choices.backing,
        mlflow_port=port,
        runtime=_runtime(engine),
    )
    # First, since it takes longest to start and needs nothing of the rest.
    manager.start(plan.mlflow())
    plan.images = _runner_images(engine, home)
    for image in plan.images:
        _ensure_platform_packages(home, engine, image.tag, networks, choices.rules)
    password = _prepare_rows(plan)
    started.plan = plan
    _prepare_features(plan)
    for service in (plan.supervisor(), plan.worker(), plan.web()):
        manager.start(service)
    step("Waiting until every part answers")
    held_up = wait_until_ready(
        f"http://{address.probe_host}:{address.port}/mlops/ready", check=manager.check
    )
    manager.settled()
    if held_up:
        warn(held_up)
    _greet(plan, password)


def _stop(home: Home, manager: ProcessManager, started: "_Started") -> None:
    """First who could start something, then what runs, then what that needs."""
    step("Stopping")
    manager.stop(keep=("mlflow",))
    if started.plan is not None:
        _stop_jobs(started.plan)
    manager.stop()
    if started.handle is None:
        return
    try:
        for state in started.engine.find({"mlops.installation": home.installation_id}):
            started.engine.remove(state.id)
        _remove_rules(started.engine, home.installation_id)
    except (EngineError, EngineUnavailable) as error:
        warn(f"Containers could not be removed: {error}")
    started.handle.stop_daemon()
    print("Stopped. Nothing that was started here runs any more.", flush=True)


def _remove_rules(engine: Engine, installation_id: str) -> None:
    """Nothing is left that they hold; the next start writes them anew."""
    image = runner_image_tag(installation_id)
    try:
        if has_runner_image(engine, installation_id):
            firewall.remove(engine, image=image, installation_id=installation_id)
    except firewall.RulesNotInstalled as error:
        warn(f"The firewall's rules could not be removed: {error}")


def _stop_jobs(plan: Plan) -> None:
    """Running jobs go back to the queue, for the next start. It works without this too: then the
    next start finds attempts whose containers are gone."""
    try:
        said = _manage("stop_jobs", plan.worker_environment(), seconds=STOP_JOBS_SECONDS).strip()
    except (Stop, subprocess.TimeoutExpired) as error:
        warn(f"Running jobs could not be given back to the queue: {error}")
        return
    if said:
        step(said)


def _runner_images(engine: Engine, home: Home) -> tuple[ImageInfo, ...]:
    """One for each Python that jobs may ask for. Raises ImageFailed, Stop."""
    days = os.environ.get("MLOPS_BASE_MAX_AGE_DAYS") or BASE_MAX_AGE_DAYS
    if not days.isascii() or not days.isdigit():
        raise Stop("MLOPS_BASE_MAX_AGE_DAYS must be a whole number of days; 0: never too old.")
    return ensure_runner_images(
        engine,
        installation_id=home.installation_id,
        bases=base_names(os.environ.get("MLOPS_BASE_IMAGES", "")),
        packages=_base_packages(),
        max_age=timedelta(days=int(days)) if int(days) else None,
        report=step,
    )


def _base_packages() -> tuple[str, ...]:
    """What the base images have beside Python. Raises ImageFailed."""
    return package_names(os.environ.get("MLOPS_BASE_IMAGE_PACKAGES", ""))


def _ensure_platform_packages(
    home: Home, engine: Engine, image: str, networks: Networks, rules: BuildRules
) -> None:
    store = EnvironmentStore(
        root=Path(os.environ.get("MLOPS_ENVIRONMENTS_DIR", home.folder("environments") / "store")),
        engine=engine,
        image=image,
        network=networks.builds,
        installation_id=home.installation_id,
        build_seconds=BUILD_SECONDS,
        rules=rules,
    )
    try:
        store.platform_folder()
    except EnvironmentFailed:
        with timed_step("Installing the packages of the model server"):
            store.ensure_platform(output=lambda data: None)


def _prepare_rows(plan: Plan) -> str | None:
    """Migrates, and makes the admin user at the first start. Returns a password that is new."""
    password = secrets.token_urlsafe(12)
    variables = {**plan.worker_environment(), "MLOPS_ADMIN_PASSWORD": password}
    said = _manage("prepare_platform", variables)
    if plan.accounts.web is not None:
        ensure_accounts(plan.home)  # the database file is new: hand it over too
    if "admin user made" not in said:
        return None
    # At once, since it is kept nowhere: whatever fails after this must not swallow it.
    step(f"Admin user made: admin / {password}")
    return password


def _prepare_features(plan: Plan) -> None:
    if (plan.home.folder("feast") / DONE_FILE).exists():
        return
    with timed_step("Making the feature store"):
        _manage("prepare_feature_store", plan.worker_environment())
    ensure_accounts(plan.home)


def _manage(command: str, variables: Mapping[str, str], *, seconds: float | None = None) -> str:
    """Runs a management command; its words are shown only when it fails.

    Raises Stop, and TimeoutExpired when it takes longer than `seconds`.
    """
    done = subprocess.run(
        [sys.executable, "manage.py", command],
        cwd=CHECKOUT,
        env=dict(variables),
        capture_output=True,
        text=True,
        umask=0o007,
        timeout=seconds,
    )
    if done.returncode:
        raise Stop(f"{command} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def _runtime(engine: Engine) -> str:
    """Whom jobs and model servers run under; the engine's own choice if none is named.

    Raises Stop for one that the engine does not know: no job could start.
    """
    asked = os.environ.get(RUNTIME_VARIABLE, "")
    known = engine.runtimes()
    if asked and asked not in known:
        raise Stop(
            f"{RUNTIME_VARIABLE}={asked}: this Docker Engine knows {', '.join(known)}. "
            "docs/SECURITY.md says how to register gVisor."
        )
    return asked or engine.default_runtime()


def _greet(plan: Plan, password: str | None) -> None:
    url = plan.address.url
    login = f"admin / {password}" if password else "admin (password as at the first start)"
    script = "examples/training_scripts/sklearn_classification.py"
    target = "" if plan.address.port == DEFAULT_PORT else f" --url {url}"
    box(
        [
            "The MLOps engine is running.",
            "",
            f"API      {url}",
            f"Docs     {url}/docs",
            f"Admin    {url}/admin/",
            f"Login    {login}",
            *([] if password else ['         a new one: make manage ARGS="changepassword admin"']),
            f"MLflow   {plan.mlflow_url}",
            f"         admin / see {plan.home.folder('secrets') / 'mlflow_password'}",
            f"Rows     {plan.backing.database}",
            f"Queue    {plan.backing.queue}",
            f"Sandbox  {plan.runtime}",
            f"State    {plan.home.root}   (logs in logs/, data for scripts in data/)",
        ]
    )
    print(
        "Send the first job:\n\n"
        f"  python3 examples/upload_training_script.py --script {script} \\\n"
        f"    --experiment demo --model demo --requirements scikit-learn{target}\n\n"
        "Ctrl-C stops everything.",
        flush=True,
    )
