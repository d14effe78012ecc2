"""Python environments: folders built once for each resolved set of packages, mounted read-only.

A set of requirements is resolved to a lock, the lock's hash names the folder, and the lock is
remembered for the set, so that the next job with the same requirements installs nothing and starts
no container. Layout below the store's root, which is one bind mount of the build container:

    cache/              uv's cache, hard-linked into the environments
    envs/<key>/         a finished environment; `lock.txt` in it says what it holds
    building/<random>/  one that is being built; published by a rename
    resolved/<hash>     which key a set of requirements resolved to
    platform/<key>/     what our own model server needs, for the end of `sys.path`
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sandbox.engine import Engine
from sandbox.held_folders import held_folder, is_abandoned
from sandbox.images import base_of
from sandbox.spec import BUILDER_UID, Kind, Limits, build_spec

BASELINE = ("mlflow-skinny==3.13.*", "pandas", "psutil")
# From 3.14 the default format of scikit-learn models refuses most tree ensembles.
CONSTRAINTS = ("mlflow<3.14", "mlflow-skinny<3.14")
PLATFORM = ("uvicorn>=0.34,<1", "httptools>=0.6,<1", "uvloop>=0.21,<1", "orjson>=3.10,<4")
BUILD_LIMITS = Limits(memory_mb=2048, cpus=2.0, pids=256, scratch_mb=512)
RESOLUTION_SECONDS = 7 * 24 * 3600
# Between the end of a container's output and its own.
END_SECONDS = 30
WATCH_SECONDS = 0.5
LOCK_SECONDS = 0.2
BUILD_LABEL = "mlops.build"
Output = Callable[[bytes], None]


@dataclass(frozen=True)
class Environment:
    """A finished environment: its key, its folder on this host, and its lock (one pin a line)."""

    key: str
    path: Path
    lock: str


@dataclass(frozen=True)
class EnvironmentLock:
    """What a set of requirements resolves to: the key of its environment, and the pins in it.

    `installed`: this host has the environment already.
    """

    key: str
    lock: str
    installed: bool


class EnvironmentFailed(Exception):
    """The requirements cannot be installed; `reason` is a code, `detail` one sentence."""

    def __init__(self, *, reason: str, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint


class BuildStopped(Exception):
    """Whoever asked for the environment does not want it any more."""


class EnvironmentStore:
    """The environments of one installation on one engine's host."""

    def __init__(
        self,
        *,
        root: Path,
        engine: Engine,
        image: str,
        network: str,
        installation_id: str,
        build_seconds: int,
    ) -> None:
        self._root = root
        self._engine = engine
        self._image = image
        self._network = network
        self._installation_id = installation_id
        self._build_seconds = build_seconds
        self._base: str | None = None

    def find(self, requirements: Sequence[str]) -> Environment | None:
        """The environment that these requirements resolved to lately; starts no container."""
        remembered = self._root / "resolved" / self._set_hash(requirements)
        try:
            age = time.time() - remembered.stat().st_mtime
            key = remembered.read_text().strip()
        except FileNotFoundError:
            return None
        return self.get(key) if age < RESOLUTION_SECONDS else None

    def get(self, key: str) -> Environment | None:
        """By its key; None when this host does not have it."""
        folder = self._root / "envs" / key
        try:
            return Environment(key=key, path=folder, lock=(folder / "lock.txt").read_text())
        except FileNotFoundError:
            return None

    def build(
        self,
        requirements: Sequence[str],
        *,
        output: Output,
        stop: threading.Event | None = None,
    ) -> Environment:
        """Finds the environment or builds it; the build's lines go to `output` as they come.

        Raises EnvironmentFailed, and BuildStopped when `stop` is set meanwhile. Two builds of the
        same set wait for each other; the second finds what the first made.
        """
        wanted = stop or threading.Event()
        with self._locked(self._set_hash(requirements), stop=wanted):
            found = self.find(requirements)
            return found or self._build(requirements, output=output, stop=wanted)

    def resolve(
        self,
        requirements: Sequence[str],
        *,
        output: Output,
        stop: threading.Event | None = None,
    ) -> EnvironmentLock:
        """What `build` would install, without installing it; no container for what is known.

        Raises EnvironmentFailed, and BuildStopped when `stop` is set meanwhile. Waits for nobody:
        two that resolve the same set at once cost a container more and disturb nothing.
        """
        found = self.find(requirements)
        if found is not None:
            return EnvironmentLock(key=found.key, lock=found.lock, installed=True)
        with self._build_folder() as building:
            lock = self._lock_of(
                requirements, building, output=output, stop=stop or threading.Event()
            )
        key = self._key(lock)
        installed = self.get(key) is not None
        if installed:
            self._remember(requirements, key)
        return EnvironmentLock(key=key, lock=lock, installed=installed)

    def platform_folder(self) -> Path:
        """The folder to mount at /platform. Raises EnvironmentFailed when it was never made."""
        folder = self._platform_path()
        if not folder.is_dir():
            raise EnvironmentFailed(
                reason="environment_build_failed",
                detail="The platform's own packages are not installed.",
                hint="Start the platform with `make run`, which installs them.",
            )
        return folder

    def python_tag(self) -> str:
        """Which Python runs in the containers, such as `cpython-311`; empty while that is unknown.

        Their own Python wrote it into the names of the platform folder's bytecode.
        """
        compiled = next(self._platform_path().glob("*/__pycache__/*.pyc"), None)
        return compiled.name.split(".")[-2] if compiled else ""

    def ensure_platform(self, *, output: Output) -> Path:
        """Builds the platform folder unless it is there. Raises EnvironmentFailed."""
        final = self._platform_path()
        stop = threading.Event()
        with self._locked(f"platform-{final.name}", stop=stop):
            if final.is_dir():
                return final
            with self._build_folder() as building:
                _hand_in(building / "requirements.in", PLATFORM)
                self._run_step("platform", building, output=output, stop=stop)
                _publish(building / "environment", final)
        return final

    def remove_abandoned(self) -> list[str]:
        """Removes the containers and folders of builds whose process died; returns their names.

        Raises EngineError, EngineUnavailable.
        """
        labels = {"mlops.installation": self._installation_id, "mlops.kind": str(Kind.BUILD)}
        removed = set()
        for state in self._engine.find(labels):
            name = state.labels.get(BUILD_LABEL, "")
            if not name or is_abandoned(self._root / "building" / name):
                self._engine.remove(state.id)
                removed.add(name or state.name)
        for folder in self._building():
            if is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.add(folder.name)
        return sorted(removed)

    def _building(self) -> list[Path]:
        try:
            return [path for path in (self._root / "building").iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []

    def _build(
        self, requirements: Sequence[str], *, output: Output, stop: threading.Event
    ) -> Environment:
        started = time.monotonic()
        count = len(requirements)
        noun = "requirement" if count == 1 else "requirements"
        output(f"Resolving {count} {noun}\n".encode())
        with self._build_folder() as building:
            lock = self._lock_of(requirements, building, output=output, stop=stop)
            key = self._key(lock)
            if self.get(key) is None:
                self._run_step("install", building, output=output, stop=stop)
                shutil.copyfile(building / "lock.txt", building / "environment" / "lock.txt")
                _publish(building / "environment", self._root / "envs" / key)
        self._remember(requirements, key)
        seconds = time.monotonic() - started
        output(f"Environment {key} ready in {seconds:.1f} s\n".encode())
        return Environment(key=key, path=self._root / "envs" / key, lock=lock)

    def _lock_of(
        self,
        requirements: Sequence[str],
        building: Path,
        *,
        output: Output,
        stop: threading.Event,
    ) -> str:
        wanted, constraints = _with_baseline(requirements)
        _hand_in(building / "requirements.in", wanted)
        _hand_in(building / "constraints.in", constraints)
        self._run_step("resolve", building, output=output, stop=stop)
        return (building / "lock.txt").read_text()

    def _run_step(
        self, step: str, building: Path, *, output: Output, stop: threading.Event
    ) -> None:
        """One locked-down container that does one step; its output is passed on line by line."""
        command = ["python3", "-u", "/opt/mlops/build_environment.py", step]
        command.append(f"/store/building/{building.name}")
        spec = build_spec(
            name=f"mlops-{self._installation_id}-build-{building.name}-{step}",
            image=self._image,
            command=command,
            store_folder=self._root,
            user=_builder(),
            variables=_index_variables(),
            network=self._network,
            limits=BUILD_LIMITS,
            labels={"mlops.installation": self._installation_id, BUILD_LABEL: building.name},
        )
        text = bytearray()
        container = self._engine.create(spec)
        try:
            timed_out = self._follow(container, output=output, text=text, stop=stop)
            state = self._engine.state(container)
        finally:
            self._engine.remove(container)
        if stop.is_set():
            raise BuildStopped
        if timed_out:
            raise EnvironmentFailed(
                reason="environment_build_timeout",
                detail=f"Installing the requirements took longer than {self._build_seconds} s.",
                hint="Ask for fewer or smaller packages, or try again when the index is faster.",
            )
        code = state.exit_code if state else None
        if code != 0:
            raise _failure(code, text.decode(errors="replace"))

    def _follow(
        self, container: str, *, output: Output, text: bytearray, stop: threading.Event
    ) -> bool:
        """Whether the time was over. A watcher kills, since a silent stream wakes nobody."""
        over, timed_out = threading.Event(), threading.Event()
        deadline = time.monotonic() + self._build_seconds

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                if time.monotonic() > deadline:
                    timed_out.set()
                if timed_out.is_set() or stop.is_set():
                    self._engine.kill(container)
                    return

        self._engine.start(container)
        threading.Thread(target=watch, name="build-watcher", daemon=True).start()
        try:
            for data in self._engine.follow_logs(container):
                text += data
                output(data)
            self._engine.wait(container, timeout_seconds=END_SECONDS)
        finally:
            over.set()
        return timed_out.is_set()

    @contextlib.contextmanager
    def _build_folder(self) -> Iterator[Path]:
        """A folder below building/ that the builder may write; gone afterwards in any case."""
        self._prepare_root()
        with held_folder(self._root / "building") as folder:
            _give_to_builder(folder)
            yield folder

    def _prepare_root(self) -> None:
        for name in ("cache", "envs", "building", "resolved", "platform", "locks"):
            folder = self._root / name
            folder.mkdir(parents=True, exist_ok=True)
        # The builder passes through; an operator who hides the store does so one folder above.
        self._root.chmod(0o711)
        for name in ("cache", "building"):
            _give_to_builder(self._root / name)

    @contextlib.contextmanager
    def _locked(self, name: str, *, stop: threading.Event) -> Iterator[None]:
        """One builder at a time for each set; the kernel frees the lock of a killed one.

        Raises BuildStopped when `stop` is set while somebody else builds.
        """
        self._prepare_root()
        with (self._root / "locks" / name).open("w") as handle:
            while not _try_lock(handle):
                if stop.wait(LOCK_SECONDS):
                    raise BuildStopped
            yield

    def _remember(self, requirements: Sequence[str], key: str) -> None:
        target = self._root / "resolved" / self._set_hash(requirements)
        aside = target.with_suffix(f".{os.getpid()}")
        aside.write_text(key)
        aside.replace(target)

    def _set_hash(self, requirements: Sequence[str]) -> str:
        wanted, constraints = _with_baseline(requirements)
        return _hash("\n".join([self._image_base(), *sorted(wanted), "--", *constraints]))

    def _key(self, lock: str) -> str:
        return _hash(f"{self._image_base()}\n{lock}")

    def _platform_path(self) -> Path:
        return self._root / "platform" / _hash("\n".join([self._image_base(), *PLATFORM]))

    def _image_base(self) -> str:
        if self._base is None:
            self._base = base_of(self._engine, self._image)
        return self._base


def whole_set(requirements: Sequence[str]) -> list[str]:
    """What is asked to be installed for these: normalised, sorted, with what every job needs.

    Raises EnvironmentFailed.
    """
    return sorted(_with_baseline(requirements)[0])


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _with_baseline(requirements: Sequence[str]) -> tuple[list[str], list[str]]:
    """The requirements, normalised, with what every job needs; and the constraints on them.

    A user who pins an MLflow himself gets it: then neither our pin nor our constraint applies.
    """
    own = [_normalised(requirement) for requirement in requirements]
    pinned = any(
        requirement.name in ("mlflow", "mlflow-skinny") and requirement.specifier
        for requirement in own
    )
    names = {requirement.name for requirement in own}
    baseline = [Requirement(line) for line in BASELINE]
    added = [
        Requirement("mlflow-skinny") if pinned and line.name == "mlflow-skinny" else line
        for line in baseline
        if line.name not in names
    ]
    return [str(line) for line in [*own, *added]], [] if pinned else list(CONSTRAINTS)


def _normalised(requirement: str) -> Requirement:
    """Raises EnvironmentFailed for what is not a PEP 508 requirement."""
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        raise EnvironmentFailed(
            reason="requirements_invalid",
            detail=f"{requirement!r} is not a requirement.",
            hint="Write a package name with an optional version, such as scikit-learn==1.5.2.",
        ) from error
    parsed.name = canonicalize_name(parsed.name)
    return parsed


def _failure(code: int | None, text: str) -> EnvironmentFailed:
    """Puts uv's refusal into our words. uv tells reasons apart by text only."""
    told = " ".join(text.replace("│", " ").replace("╰─▶", " ").split())
    lowered = told.lower()
    if code is not None and code > 128:
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail="Installing the requirements was ended by the system, most likely for memory.",
            hint="Ask for fewer or smaller packages.",
        )
    if any(mark in lowered for mark in ("failed to fetch", "error sending request", "dns error")):
        return EnvironmentFailed(
            reason="package_index_unreachable",
            detail="The package index cannot be reached from the build container.",
            hint="Check the network, proxy and certificate settings of the platform, then retry.",
        )
    if "failed to parse" in lowered or "couldn't parse requirement" in lowered:
        return EnvironmentFailed(
            reason="requirements_invalid", detail=_tail(told), hint="Mend the requirement."
        )
    missing = ("not found in the package registry", "there are no versions", "there is no version")
    if any(mark in lowered for mark in missing) or "no wheels" in lowered or "usable wheel" in told:
        return EnvironmentFailed(
            reason="requirements_not_found",
            detail=_tail(told),
            hint="Check name and version; only packages with a wheel for this Python install.",
        )
    if "no solution found" in lowered:
        return EnvironmentFailed(
            reason="requirements_conflict",
            detail=_tail(told),
            hint="Loosen the versions that exclude each other.",
        )
    return EnvironmentFailed(
        reason="environment_build_failed",
        detail=_tail(told) or "Installing the requirements failed.",
        hint="The job's log has the whole output of the installer.",
    )


def _tail(told: str) -> str:
    """What follows the last "Because" or "error:", which is where uv says why."""
    _, _, after = told.rpartition("error:")
    start = told.find("Because")
    sentence = told[start:] if start >= 0 else after.strip()
    return sentence[:500]


def _publish(folder: Path, final: Path) -> None:
    """Makes the folder visible under its final name in one step; the first of two wins."""
    folder.chmod(0o755)
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _hand_in(path: Path, lines: Sequence[str]) -> None:
    """A file for the builder, whatever this process' umask is."""
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o644)


def _builder() -> str:
    """Started as root we hand folders to the image's builder; else the builder is who we are."""
    return "builder" if os.geteuid() == 0 else f"{os.geteuid()}"


def _give_to_builder(folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(folder, BUILDER_UID, BUILDER_UID)


def _index_variables() -> dict[str, str]:
    """The operator's package index and proxy, if set for the platform, hold for builds too."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
    values = {name: os.environ.get(f"MLOPS_BUILD_{name}", "") for name in names}
    return {name: value for name, value in values.items() if value}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
