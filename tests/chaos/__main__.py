"""`python -m tests.chaos`: the storm with a Docker Engine of its own, which is killed as well.

`make chaos` is its long form: 200 jobs, a table at the end, exit code 1 for any broken promise.
"""

import argparse
import json
import secrets
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from deploy.accounts import remove_accounts
from deploy.docker_engine import ensure_engine, ensure_image_tools
from deploy.testing import remove_installation
from sandbox.images import ensure_runner_image
from sandbox.network import ensure_networks
from tests.chaos.own_engine import (
    OwnEngine,
    can_be_made,
    leave_process_one,
    prepare_namespace,
    run_inside,
)
from tests.chaos.storm import Weather, storm
from tests.fixtures.engine import kept_environments

LONG = {"jobs": 200, "seconds": 900.0}
# For what the storm has left to run, too.
BEYOND_THE_STORM_SECONDS = 1800


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", nargs="?", choices=["inside"])
    parser.add_argument("--jobs", type=int, default=LONG["jobs"])
    parser.add_argument("--seconds", type=float, default=LONG["seconds"])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    parser.add_argument("--failing", type=float, default=1 / 3, help="the part that fails")
    parser.add_argument("--folder", type=Path, help="with the base image in it; for `inside`")
    parser.add_argument("--name", default="", help="the installation's; for `inside`")
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 5.0))
    options = parser.parse_args()
    if options.where == "inside":
        return _inside(options)
    if not can_be_made():
        print("A Docker Engine of its own needs root, dockerd and unshare.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mlops-chaos-") as folder:
        return storm_inside(_weather(options), Path(folder))


def _weather(options: argparse.Namespace) -> Weather:
    return Weather(
        jobs=options.jobs,
        seed=options.seed,
        seconds=options.seconds,
        pause_seconds=tuple(options.pause),
        failing=options.failing,
    )


def storm_inside(weather: Weather, folder: Path) -> int:
    """The storm in namespaces of its own; `outcome.json` in the folder has the account of it."""
    name = f"chaos-{secrets.token_hex(3)}"
    prepare(folder)
    arguments = ["--jobs", str(weather.jobs), "--seconds", str(weather.seconds)]
    arguments += ["--seed", str(weather.seed), "--folder", str(folder), "--name", name]
    arguments += ["--failing", str(weather.failing)]
    arguments += ["--pause", *(str(seconds) for seconds in weather.pause_seconds)]
    try:
        return run_inside(arguments, timeout_seconds=weather.seconds + BEYOND_THE_STORM_SECONDS)
    finally:
        # Accounts are the machine's, and whoever was killed inside could not remove them.
        remove_accounts(name)


def prepare(folder: Path) -> None:
    """What the engine of the storm has no network for: the image that ours is made from, out of the
    machine's engine, and the environment of its jobs."""
    handle = ensure_engine(folder)
    name = f"chaos-{secrets.token_hex(3)}"
    try:
        ensure_image_tools(handle.engine)
        image = ensure_runner_image(handle.engine, installation_id=name, report=print)
        with (folder / "base.tar").open("wb") as archive:
            for block in handle.engine.api.get_image(image.base):
                archive.write(block)
        networks = ensure_networks(handle.engine, name)
        store = kept_environments(
            handle.engine, image=image.tag, networks=networks, installation_id=name
        )
        store.build([], output=lambda data: None)
    finally:
        remove_installation(handle.engine, name)
        handle.stop_daemon()


def _inside(options: argparse.Namespace) -> int:
    leave_process_one()
    prepare_namespace()
    folder: Path = options.folder
    folder.chmod(0o755)
    own = OwnEngine(folder / "engine")
    engine = own.start()
    own.load(folder / "base.tar")
    (folder / "base.tar").unlink()
    weather = _weather(options)
    print(f"seed {weather.seed}", flush=True)
    home = folder / "var"
    outcome = storm(home, options.name, engine=engine, weather=weather, own_engine=own)
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))
    print(outcome.table(), flush=True)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
