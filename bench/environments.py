"""How long an environment takes: built cold by us, beside uv alone with the same cache.

    python -m bench.environments --rounds 3

Both install the same lock, from the same warm cache, with bytecode, on the same file system, by
turns. The floor is `uv pip install --compile-bytecode` in a plain container that is there already:
no resolution, no container to start, no check. We keep bytecode beside uv's cache, so there are two
figures: with it, and without. Then the same set once more, which installs nothing.
"""

import argparse
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Bar, Figure, table
from deploy.testing import remove_installation
from sandbox.container import SandboxSpec
from sandbox.engine import Engine
from sandbox.environments import BUILD_LIMITS, EnvironmentFailed, EnvironmentStore
from sandbox.images import ensure_runner_image
from sandbox.network import ensure_networks
from sandbox.spec import build_spec

SETS = {
    "scikit-learn and pandas": ("scikit-learn", "pandas"),
}
FLOOR = """
import subprocess, sys, time
folder, uv = sys.argv[1], "/opt/mlops/uv"
common = ["--quiet", "--no-config", "--cache-dir", "/store/cache"]
started = time.monotonic()
subprocess.run([uv, "venv", *common, "--python", sys.executable, folder], check=True)
subprocess.run([uv, "pip", "install", *common, "--link-mode", "hardlink", "--compile-bytecode",
    "--python", f"{folder}/bin/python", "--requirements", f"{folder}.txt"], check=True)
print("seconds", time.monotonic() - started)
"""


@dataclass(frozen=True)
class Bench:
    """A store of its own, with a cache that is warm after the first build."""

    engine: Engine
    store: EnvironmentStore
    root: Path
    image: str
    network: str
    installation_id: str

    def forget_bytecode(self) -> None:
        """As for packages that were never compiled here."""
        shutil.rmtree(self.root / "cache-bytecode")

    def built(self, requirements: tuple[str, ...]) -> float:
        """Seconds of a build of which nothing is there but the cache."""
        for name in ("envs", "resolved", "kept"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        return _seconds(lambda: self.store.build(requirements, output=lambda data: None))

    def found(self, requirements: tuple[str, ...]) -> float:
        return _seconds(lambda: self.store.build(requirements, output=lambda data: None))

    def floor(self, lock: str) -> float:
        """What uv alone needs, as it says itself."""
        name = f"floor-{secrets.token_hex(3)}"
        (self.root / "building" / f"{name}.txt").write_text(lock)
        container = self.engine.create(self._spec(name))
        try:
            self.engine.start(container)
            self.engine.wait(container, timeout_seconds=600)
            said = self.engine.read_logs(container).decode()
        finally:
            self.engine.remove(container)
            shutil.rmtree(self.root / "building" / name, ignore_errors=True)
        return float(said.rpartition("seconds ")[2])

    def _spec(self, name: str) -> SandboxSpec:
        return build_spec(
            name=f"mlops-{self.installation_id}-{name}",
            image=self.image,
            command=("python3", "-c", FLOOR, f"/store/building/{name}"),
            store_folder=self.root,
            user="builder",
            variables={},
            network=self.network,
            limits=BUILD_LIMITS,
            labels={"mlops.installation": self.installation_id},
        )


def main() -> int:
    """Returns 0 whatever the figures are; 1 when they could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m bench.environments", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    try:
        with _bench() as bench:
            figures = [
                figure
                for name, requirements in SETS.items()
                for figure in _figures(bench, name, requirements, rounds=arguments.rounds)
            ]
    except EnvironmentFailed as failed:
        print(f"The figures could not be taken. {failed.detail}", file=sys.stderr)
        return 1
    print(table(figures))
    return 0


def _figures(
    bench: Bench, name: str, requirements: tuple[str, ...], *, rounds: int
) -> list[Figure]:
    bench.built(requirements)
    environment = bench.store.find(requirements)
    assert environment is not None  # noqa: S101 - it was built in the line before
    first, ours, floors = [], [], []
    for _ in range(rounds):
        floors.append(bench.floor(environment.lock))
        ours.append(bench.built(requirements))
        bench.forget_bytecode()
        first.append(bench.built(requirements))
    again = [bench.found(requirements) for _ in range(rounds)]
    return [
        Figure(
            name=f"environment of {name}, cold, with bytecode",
            unit="s",
            ours=statistics.median(ours),
            floor=statistics.median(floors),
            floor_is="uv pip install --compile-bytecode, same lock, same cache",
            bar=Bar(1.25, times_floor=True),
            samples=tuple(ours),
            floor_samples=tuple(floors),
        ),
        Figure(
            name="the same, of packages that were never compiled here",
            unit="s",
            ours=statistics.median(first),
            floor=statistics.median(floors),
            floor_is="the same",
            bar=Bar(1.25, times_floor=True),
            samples=tuple(first),
            floor_samples=tuple(floors),
        ),
        Figure(
            name="the same set again",
            unit="s",
            ours=statistics.median(again),
            bar=Bar(0.1),
            samples=tuple(again),
        ),
    ]


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


@contextmanager
def _bench() -> Iterator[Bench]:
    engine, name = Engine.connect(), f"bench-{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    folder.chmod(0o755)
    try:
        image = ensure_runner_image(engine, installation_id=name, report=print).tag
        networks = ensure_networks(engine, name)
        store = EnvironmentStore(
            root=folder / "store",
            engine=engine,
            image=image,
            network=networks.builds,
            installation_id=name,
            build_seconds=600,
        )
        yield Bench(engine, store, folder / "store", image, networks.jobs, name)
    finally:
        remove_installation(engine, name)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
