"""Python environments: folders built once for each resolved set of packages, mounted read-only.

A set of requirements is resolved to a lock, the lock's hash names the folder, and the lock is
remembered for the set, so that the next job with the same requirements installs nothing and starts
no container. `sandbox/store_folders.py` has the layout.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.build_container import (
    BUILD_LABEL,
    BUILD_LIMITS,
    BuildContainers,
    Output,
    hand_in,
    unheard,
)
from sandbox.build_rules import BuildRules
from sandbox.build_steps import BuildSteps
from sandbox.container import Kind
from sandbox.engine import Engine
from sandbox.environment_failures import (
    BuildStopped,
    EnvironmentFailed,
    EnvironmentInUse,
    denied,
)
from sandbox.held_folders import is_abandoned
from sandbox.image.lock_file import has_hashes, pins_in
from sandbox.requirement_sets import (
    BASELINE_NAMES,
    PLATFORM,
    normalised,
    whole_set,
    with_baseline,
)
from sandbox.store_folders import (
    CACHE,
    CACHES,
    LOCK_FILES,
    SOURCE_CACHE,
    Stored,
    StoreFolders,
    move_into_place,
)

__all__ = [
    "BASELINE_NAMES",
    "BUILD_LABEL",
    "BUILD_LIMITS",
    "BuildStopped",
    "Environment",
    "EnvironmentFailed",
    "EnvironmentInUse",
    "EnvironmentLock",
    "EnvironmentStore",
    "Stored",
    "whole_set",
]

# Part of every name: what was remembered before has no hashes in its lock.
LAYOUT = "hashes"
# Between the moment that an environment is found for a container and that container's start.
IN_USE_SECONDS = 60.0


@dataclass(frozen=True)
class Environment:
    """A finished environment: its key, its folder on this host, and its lock in both its forms.

    `lock` is a requirements file with hashes, `pylock` what PEP 751 says, `image` the runner image
    whose Python it is for. `size_bytes` counts every file that is in it; 0 while nobody counted.
    """

    key: str
    path: Path
    lock: str
    pylock: str = ""
    image: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class EnvironmentLock:
    """What a set of requirements resolves to: the key of its environment, and its lock.

    `installed`: this host has the environment already.
    """

    key: str
    lock: str
    installed: bool

    @property
    def pins(self) -> list[str]:
        """One package with its version each."""
        return pins_in(self.lock)


class EnvironmentStore:
    """The environments of one installation on one engine's host, for the Python of one image.

    Several of them, one for each image, share one root: a key tells which of them it is for, since
    it is made of the lock and the image's base.
    """

    def __init__(
        self,
        *,
        root: Path,
        engine: Engine,
        image: str,
        network: str,
        installation_id: str,
        build_seconds: int,
        rules: BuildRules | None = None,
        before_build: Callable[[], None] = lambda: None,
    ) -> None:
        self._folders = StoreFolders(root)
        self._engine = engine
        self._installation_id = installation_id
        self._rules = rules or BuildRules()
        self._image = image
        self._steps = BuildSteps(
            BuildContainers(
                engine=engine,
                image=image,
                network=network,
                installation_id=installation_id,
                root=root,
                seconds=build_seconds,
                rules=self._rules,
                before=before_build,
            )
        )

    # -- what is there -----------------------------------------------------------------------------
    def find(self, requirements: Sequence[str]) -> Environment | None:
        """The environment that these requirements resolved to lately; starts no container."""
        key = self._folders.recall(self._set_hash(requirements))
        return self.get(key) if key is not None else None

    def get(self, key: str) -> Environment | None:
        """By its key; None when this host does not have it, or it is for another Python.

        It counts as used now.
        """
        try:
            lock, pylock = self._folders.lock_files(key)
        except FileNotFoundError:
            return None
        if not self.fits(key, lock):
            return None
        self._folders.touch(key)
        path, image = self._folders.environment(key), self._image
        if not path.is_dir():
            # Between the look and the touch: from the touch on nobody takes it away.
            return None
        size = self._folders.kept_size(key)
        return Environment(
            key=key, path=path, lock=lock, pylock=pylock, image=image, size_bytes=size
        )

    def fits(self, key: str, lock: str) -> bool:
        """Whether an environment of this key and lock is for the Python of this store."""
        return self._key(lock) == key

    def lock_files(self, key: str) -> tuple[str, str]:
        """The lock of an environment that is there, in both its forms.

        The second is empty for one that was built long ago. Raises FileNotFoundError.
        """
        return self._folders.lock_files(key)

    def stored(self) -> list[Stored]:
        """Every environment that is there, the least recently used first."""
        return self._folders.stored()

    # -- building ----------------------------------------------------------------------------------
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
        with self._folders.locked(self._set_hash(requirements), stop=wanted):
            found = self.find(requirements)
            return found or self._build(
                requirements, output=output, stop=wanted, asked_for=requirements
            )

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
        with self._folders.build_folder() as building:
            self._refuse_what_is_not_allowed(requirements)
            _hand_in_requirements(requirements, building)
            self._steps.run_for(
                "resolve", requirements, building, output=output, stop=stop or threading.Event()
            )
            lock = (building / "lock.txt").read_text()
        key = self._key(lock)
        installed = self.get(key) is not None
        if installed:
            self._folders.remember(self._set_hash(requirements), key)
        return EnvironmentLock(key=key, lock=lock, installed=installed)

    def restore(
        self,
        key: str,
        *,
        output: Output,
        lock: str = "",
        stop: threading.Event | None = None,
    ) -> Environment | None:
        """The environment, built again from its lock where it is lost: the same files, by hash.

        `lock` is for a host whose store never had it. None when nobody knows its lock, or it is for
        another base or without hashes (`build_alike` makes one like it). Raises EnvironmentFailed
        and BuildStopped.
        """
        wanted = stop or threading.Event()
        with self._folders.locked(f"restore-{key}", stop=wanted):
            found = self.get(key)
            if found is not None:
                return found
            known = self._folders.kept_files(key).get("lock.txt") or lock
            if not self.fits(key, known) or not has_hashes(known):
                return None
            if not self._folders.kept_files(key):
                self._folders.keep(key, {"lock.txt": lock, "pylock.toml": ""})
            return self._restore(key, output=output, stop=wanted)

    def build_alike(
        self, lock: str, *, output: Output, stop: threading.Event | None = None
    ) -> Environment:
        """The same versions under another key, where `lock` has no hashes or was made on another
        base. Raises EnvironmentFailed and BuildStopped."""
        wanted = stop or threading.Event()
        pins = pins_in(lock)
        with self._folders.locked(self._set_hash(pins), stop=wanted):
            found = self.find(pins)
            return found or self._build(pins, output=output, stop=wanted, asked_for=())

    def rebuild(
        self, key: str, *, output: Output, stop: threading.Event | None = None
    ) -> Environment | None:
        """As `restore`, also where the environment is there.

        None when nobody knows its lock. Raises EnvironmentInUse while a container has it mounted.
        """
        wanted = stop or threading.Event()
        with self._folders.locked(f"restore-{key}", stop=wanted):
            known = self._folders.kept_files(key).get("lock.txt", "")
            if not self.fits(key, known) or not has_hashes(known):
                return None
            if not self.remove(key):
                raise EnvironmentInUse(key)
            return self._restore(key, output=output, stop=wanted)

    # -- the packages of our own model server ------------------------------------------------------
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
        with self._folders.locked(f"platform-{final.name}", stop=stop):
            if final.is_dir():
                return final
            with self._folders.build_folder() as building:
                hand_in(building / "requirements.in", *PLATFORM)
                self._steps.run("platform", building, output=output, stop=stop)
                move_into_place(building / "environment", final)
        return final

    # -- room on the disk --------------------------------------------------------------------------
    def remove(self, key: str) -> bool:
        """Whether it is gone. One that a container has mounted, or may have in a moment, stays.

        Its lock stays too. Raises EngineError, EngineUnavailable.
        """
        folder = self._folders.environment(key)
        if not key or "/" in key or not folder.is_dir():
            return True
        used_at = self._folders.used_at(key)
        if time.time() - used_at < IN_USE_SECONDS or self._is_mounted(folder):
            return False
        return self._folders.remove(key, unless_used_since=used_at)

    def cache_bytes(self) -> int:
        """What the cache holds that no environment shares."""
        return self._folders.cache_bytes()

    def prune_cache(self) -> None:
        """What can be downloaded again goes. Raises EnvironmentFailed."""
        with self._folders.build_folder() as building:
            for cache in CACHES:
                self._steps.run(
                    "prune", building, cache=cache, output=unheard, stop=threading.Event()
                )

    def remove_abandoned(self) -> list[str]:
        """Removes the containers and folders of builds whose process died; returns their names.

        Raises EngineError, EngineUnavailable.
        """
        labels = {"mlops.installation": self._installation_id, "mlops.kind": str(Kind.BUILD)}
        removed = set()
        for state in self._engine.find(labels):
            name = state.labels.get(BUILD_LABEL, "")
            if not name or is_abandoned(self._folders.building / name):
                self._engine.remove(state.id)
                removed.add(name or state.name)
        return sorted(removed | self._folders.remove_abandoned())

    # -- helpers -----------------------------------------------------------------------------------
    def _build(
        self,
        requirements: Sequence[str],
        *,
        output: Output,
        stop: threading.Event,
        asked_for: Sequence[str],
    ) -> Environment:
        started = time.monotonic()
        count = len(requirements)
        noun = "requirement" if count == 1 else "requirements"
        output(f"Resolving {count} {noun}\n".encode())
        with self._folders.build_folder() as building:
            self._refuse_what_is_not_allowed(asked_for)
            _hand_in_requirements(requirements, building)
            self._steps.run_for("build", requirements, building, output=output, stop=stop)
            key = self._key((building / "lock.txt").read_text())
            if (building / "environment").is_dir():
                self._folders.publish(building, key)
        self._folders.remember(self._set_hash(requirements), key)
        return self._ready(key, started, output=output)

    def _restore(self, key: str, *, output: Output, stop: threading.Event) -> Environment:
        started = time.monotonic()
        output(f"Building environment {key} from its lock\n".encode())
        kept = self._folders.kept_files(key)
        with self._folders.build_folder() as building:
            for name in LOCK_FILES:
                hand_in(building / name, *kept.get(name, "").splitlines())
            built_here = self._folders.hand_out_wheels(key, building)
            cache = SOURCE_CACHE if built_here else CACHE
            self._steps.run("install", building, cache=cache, output=output, stop=stop)
            self._folders.publish(building, key)
        return self._ready(key, started, output=output)

    def _ready(self, key: str, started: float, *, output: Output) -> Environment:
        environment = self.get(key)
        if environment is None:
            raise EnvironmentFailed(
                reason="environment_build_failed",
                detail="The environment was removed while it was built.",
                hint="Send the job again.",
            )
        seconds = time.monotonic() - started
        output(f"Environment {key} ready in {seconds:.1f} s\n".encode())
        return environment

    def _refuse_what_is_not_allowed(self, requirements: Sequence[str]) -> None:
        """Raises EnvironmentFailed for one that the operator does not allow to be asked for."""
        for requirement in requirements:
            name = normalised(requirement).name
            refusal = self._rules.refusal_of(name)
            if refusal and (name in self._rules.denied or name not in BASELINE_NAMES):
                raise denied(refusal, name)

    def _is_mounted(self, folder: Path) -> bool:
        mounted = self._engine.mounted_folders({"mlops.installation": self._installation_id})
        return folder.resolve() in {path.resolve() for path in mounted}

    def _set_hash(self, requirements: Sequence[str]) -> str:
        wanted, constraints = with_baseline(requirements)
        return _hash("\n".join([LAYOUT, self._steps.base, *sorted(wanted), "--", *constraints]))

    def _key(self, lock: str) -> str:
        return _hash(f"{self._steps.base}\n{lock}")

    def _platform_path(self) -> Path:
        return self._folders.platform(_hash("\n".join([self._steps.base, *PLATFORM])))


def _hand_in_requirements(requirements: Sequence[str], building: Path) -> None:
    wanted, constraints = with_baseline(requirements)
    hand_in(building / "requirements.in", *wanted)
    hand_in(building / "constraints.in", *constraints)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
