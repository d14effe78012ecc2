"""One step of a build in a locked-down container; its output is passed on without any password."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.build_rules import BuildRules
from sandbox.container import BUILDER_UID, Limits, SandboxSpec
from sandbox.engine import Engine
from sandbox.environment_failures import BuildStopped, EnvironmentFailed, failure_of
from sandbox.images import base_of
from sandbox.spec import build_spec

BUILD_LIMITS = Limits(memory_mb=2048, cpus=2.0, pids=256, scratch_mb=512)
# Between the end of a container's output and its own.
END_SECONDS = 30
WATCH_SECONDS = 0.5
BUILD_LABEL = "mlops.build"
NO_NETWORK = "none"
Output = Callable[[bytes], None]


@dataclass(frozen=True)
class BuildContainers:
    """How the containers of one store are made. `image` has the Python that it installs for."""

    engine: Engine
    image: str
    network: str
    installation_id: str
    root: Path
    seconds: int
    rules: BuildRules
    # What has to hold before a container starts, such as the network's rules.
    before: Callable[[], None]

    def base(self) -> str:
        """What the image was made from: environments of one base do not fit another."""
        return base_of(self.engine, self.image)

    def run(
        self,
        step: str,
        building: Path,
        *,
        base: str,
        cache: str,
        output: Output,
        stop: threading.Event,
    ) -> None:
        """Raises EnvironmentFailed, and BuildStopped when `stop` is set meanwhile."""
        hand_in(building / "order.json", self._order(base, cache))
        command = ["python3", "-u", "/opt/mlops/build_environment.py", step]
        command.append(f"/store/building/{building.name}")
        spec = build_spec(
            name=f"mlops-{self.installation_id}-build-{building.name}-{step}",
            image=self.image,
            command=command,
            store_folder=self.root,
            user=_builder(),
            wheels_folder=self.rules.wheels,
            variables=self.rules.variables(),
            network=self.network,
            limits=BUILD_LIMITS,
            labels=self._labels(building),
        )
        code, told = self._run(spec, output=output, stop=stop)
        if code != 0:
            about = _about(building / "failure.json")
            raise failure_of(code, told, about, max_mb=self.rules.max_mb)

    def run_source(
        self, step: str, building: Path, folder: Path, *, output: Output, stop: threading.Event
    ) -> tuple[int | None, str]:
        """Exit code and output of a build of `folder/source.tar.gz`, whose code may be hostile.

        So it gets no network, no password, no cache and nothing of the store but this folder.
        """
        spec = build_spec(
            name=f"mlops-{self.installation_id}-build-{building.name}-source-{step}",
            image=self.image,
            command=["python3", "-u", "/opt/mlops/build_wheel.py", step],
            store_folder=folder,
            user=_builder(),
            variables={},
            network=NO_NETWORK,
            limits=BUILD_LIMITS,
            labels=self._labels(building),
        )
        return self._run(spec, output=output, stop=stop)

    def _labels(self, building: Path) -> dict[str, str]:
        return {"mlops.installation": self.installation_id, BUILD_LABEL: building.name}

    def _run(
        self, spec: SandboxSpec, *, output: Output, stop: threading.Event
    ) -> tuple[int | None, str]:
        """Exit code and output of one container. Raises EnvironmentFailed, BuildStopped."""
        masked = _Masked(self.rules, output)
        self.before()
        container = self.engine.create(spec)
        try:
            timed_out = self._follow(container, output=masked.take, stop=stop)
            masked.flush()
            state = self.engine.state(container)
        finally:
            self.engine.remove(container)
        if stop.is_set():
            raise BuildStopped
        if timed_out:
            raise EnvironmentFailed(
                reason="environment_build_timeout",
                detail=f"Installing the requirements took longer than {self.seconds} s.",
                hint="Ask for fewer or smaller packages, or try again when the index is faster.",
            )
        return state.exit_code if state else None, masked.text

    def _order(self, base: str, cache: str) -> str:
        values = {
            "base": base,
            "cache": cache,
            "max_mb": self.rules.max_mb,
            "denied": sorted(self.rules.denied),
            "offline": self.rules.offline,
        }
        return json.dumps(values)

    def _follow(self, container: str, *, output: Output, stop: threading.Event) -> bool:
        """Whether the time was over. A watcher kills, since a silent stream wakes nobody."""
        over, timed_out = threading.Event(), threading.Event()
        deadline = time.monotonic() + self.seconds

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                if time.monotonic() > deadline:
                    timed_out.set()
                if timed_out.is_set() or stop.is_set():
                    self.engine.kill(container)
                    return

        self.engine.start(container)
        threading.Thread(target=watch, name="build-watcher", daemon=True).start()
        try:
            for data in self.engine.follow_logs(container):
                output(data)
            self.engine.wait(container, timeout_seconds=END_SECONDS)
        finally:
            over.set()
        return timed_out.is_set()


def hand_in(path: Path, *lines: str) -> None:
    """A file for the builder, whatever this process' umask is."""
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o644)


def give_to_builder(folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(folder, BUILDER_UID, BUILDER_UID)


def unheard(data: bytes) -> None:
    """Output that nobody follows."""


def _builder() -> str:
    """Started as root we hand folders to the image's builder; else the builder is who we are."""
    return "builder" if os.geteuid() == 0 else f"{os.geteuid()}"


class _Masked:
    """Passes output on by whole lines, without what only build containers may know."""

    def __init__(self, rules: BuildRules, output: Output) -> None:
        self._rules = rules
        self._output = output
        self._told = bytearray()
        self._rest = b""

    @property
    def text(self) -> str:
        return self._told.decode(errors="replace")

    def take(self, data: bytes) -> None:
        lines, newline, self._rest = (self._rest + data).rpartition(b"\n")
        self._pass_on(lines + newline)

    def flush(self) -> None:
        rest, self._rest = self._rest, b""
        self._pass_on(rest)

    def _pass_on(self, data: bytes) -> None:
        if data:
            shown = self._rules.masked(data.decode(errors="replace")).encode()
            self._told += shown
            self._output(shown)


def _about(path: Path) -> dict[str, Any]:
    """What the container says that its refusal is about."""
    try:
        about = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
