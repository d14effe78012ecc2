"""Python environments: folders built once for each resolved set of packages, mounted read-only.

A set of requirements is resolved to a lock, the lock's hash names the folder, and the lock is
remembered for the set, so that the next job with the same requirements installs nothing and starts
no container. Layout below the store's root, which is one bind mount of the build container:

    cache/              uv's cache, hard-linked into the environments
    envs/<key>/         a finished environment; `lock.txt` and `pylock.toml` in it say what it holds
    kept/<key>/         the same two files and its size; they stay when the environment goes
    used/<key>          its time is when the environment was last asked for
    building/<random>/  one that is being built; published by a rename
    resolved/<hash>     which key a set of requirements resolved to
    platform/<key>/     what our own model server needs, for the end of `sys.path`
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from sandbox.build_rules import BuildRules
from sandbox.engine import Engine
from sandbox.held_folders import held_folder, is_abandoned
from sandbox.image.lock_file import pins_in
from sandbox.images import base_of
from sandbox.spec import BUILDER_UID, Kind, Limits, build_spec

BASELINE = ("mlflow-skinny==3.13.*", "pandas", "psutil")
# From 3.14 the default format of scikit-learn models refuses most tree ensembles.
CONSTRAINTS = ("mlflow<3.14", "mlflow-skinny<3.14")
BASELINE_NAMES = frozenset(Requirement(line).name for line in BASELINE)
# Without what they depend on: numpy and SciPy are the environment's own, and treelite is a library.
PLATFORM = ("httptools>=0.6,<1", "uvloop>=0.21,<1", "orjson>=3.10,<4", "treelite>=4.4,<5")
BUILD_LIMITS = Limits(memory_mb=2048, cpus=2.0, pids=256, scratch_mb=512)
RESOLUTION_SECONDS = 7 * 24 * 3600
# Between the end of a container's output and its own.
END_SECONDS = 30
WATCH_SECONDS = 0.5
LOCK_SECONDS = 0.2
BUILD_LABEL = "mlops.build"
# Kept equal to `sandbox/image/build_environment.py` by a test.
TOO_LARGE, DENIED, NO_HASH = 5, 6, 7
# Part of every name: what was remembered before has no hashes in its lock.
LAYOUT = "hashes"
STORE_FOLDERS = (
    *("cache", "envs", "building", "kept", "used"),
    *("resolved", "platform", "locks"),
)
LOCK_FILES = ("lock.txt", "pylock.toml")
# Between the moment that an environment is found for a container and that container's start.
IN_USE_SECONDS = 60.0
VERSIONS_SHOWN = 8
DETAIL_CHARACTERS = 1500
MB = 1_000_000
Output = Callable[[bytes], None]


@dataclass(frozen=True)
class Environment:
    """A finished environment: its key, its folder on this host, and its lock in both its forms.

    `lock` is a requirements file with hashes, `pylock` what PEP 751 says.
    """

    key: str
    path: Path
    lock: str
    pylock: str = ""


@dataclass(frozen=True)
class Stored:
    """What the store has of an environment. `size_bytes` counts every file that is in it."""

    key: str
    size_bytes: int
    used_at: float
    built_at: float


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


class EnvironmentFailed(Exception):
    """The requirements cannot be installed; `reason` is a code, `detail` one sentence.

    `package` is the one that it is about, where it is about one.
    """

    def __init__(self, *, reason: str, detail: str, hint: str, package: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint
        self.package = package


class BuildStopped(Exception):
    """Whoever asked for the environment does not want it any more."""


class EnvironmentInUse(Exception):
    """A container has the environment mounted, or is about to."""


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
        rules: BuildRules | None = None,
    ) -> None:
        self._root = root
        self._engine = engine
        self._image = image
        self._network = network
        self._installation_id = installation_id
        self._build_seconds = build_seconds
        self._rules = rules or BuildRules()
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
        """By its key; None when this host does not have it. It counts as used now."""
        folder = self._root / "envs" / key
        try:
            lock, pylock = self.lock_files(key)
        except FileNotFoundError:
            return None
        (self._root / "used").mkdir(exist_ok=True)
        (self._root / "used" / key).touch()
        return Environment(key=key, path=folder, lock=lock, pylock=pylock)

    def restore(
        self,
        key: str,
        *,
        output: Output,
        lock: str = "",
        stop: threading.Event | None = None,
    ) -> Environment | None:
        """The environment, built again from its lock where it is lost: the same files, by hash.

        `lock` is for a host whose store never had it. None when nobody knows its lock. Raises
        EnvironmentFailed and BuildStopped.
        """
        wanted = stop or threading.Event()
        with self._locked(f"restore-{key}", stop=wanted):
            found = self.get(key)
            if found is not None:
                return found
            kept = self._root / "kept" / key
            if not (kept / "lock.txt").is_file():
                if self._key(lock) != key:
                    return None
                _keep(kept, {"lock.txt": lock, "pylock.toml": ""})
            return self._restore(kept, key, output=output, stop=wanted)

    def rebuild(
        self, key: str, *, output: Output, stop: threading.Event | None = None
    ) -> Environment | None:
        """As `restore`, also where the environment is there.

        None when nobody knows its lock. Raises EnvironmentInUse while a container has it mounted.
        """
        wanted = stop or threading.Event()
        kept = self._root / "kept" / key
        with self._locked(f"restore-{key}", stop=wanted):
            if not (kept / "lock.txt").is_file():
                return None
            if not self.remove(key):
                raise EnvironmentInUse(key)
            return self._restore(kept, key, output=output, stop=wanted)

    def lock_files(self, key: str) -> tuple[str, str]:
        """The lock of an environment that is there, in both its forms.

        The second is empty for one that was built long ago. Raises FileNotFoundError.
        """
        folder = self._root / "envs" / key
        pylock = folder / "pylock.toml"
        text = (folder / "lock.txt").read_text()
        return text, pylock.read_text() if pylock.is_file() else ""

    def stored(self) -> list[Stored]:
        """Every environment that is there, the least recently used first."""
        found = [self._stored(path) for path in _folders(self._root / "envs")]
        return sorted(found, key=lambda one: one.used_at)

    def remove(self, key: str) -> bool:
        """Whether it is gone. One that a container has mounted, or may have in a moment, stays.

        Its lock stays too. Raises EngineError, EngineUnavailable.
        """
        folder = self._root / "envs" / key
        if not key or "/" in key or not folder.is_dir():
            return True
        if time.time() - self._used_at(key) < IN_USE_SECONDS or self._is_mounted(folder):
            return False
        aside = Path(tempfile.mkdtemp(dir=self._root / "building")) / key
        folder.rename(aside)
        shutil.rmtree(aside.parent, ignore_errors=True)
        return True

    def cache_bytes(self) -> int:
        """What the cache holds that no environment shares."""
        files = (
            Path(folder, name).lstat()
            for folder, _, names in os.walk(self._root / "cache")
            for name in names
        )
        return sum(file.st_size for file in files if file.st_nlink == 1)

    def prune_cache(self) -> None:
        """What can be downloaded again goes. Raises EnvironmentFailed."""
        with self._build_folder() as building:
            self._run_step("prune", building, output=_unheard, stop=threading.Event())

    def _stored(self, folder: Path) -> Stored:
        try:
            size = int((self._root / "kept" / folder.name / "size").read_text())
        except (FileNotFoundError, ValueError):
            size = _size(folder)
        return Stored(
            key=folder.name,
            size_bytes=size,
            used_at=self._used_at(folder.name),
            built_at=folder.stat().st_ctime,
        )

    def _used_at(self, key: str) -> float:
        for path in (self._root / "used" / key, self._root / "envs" / key):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def _is_mounted(self, folder: Path) -> bool:
        mounted = self._engine.mounted_folders({"mlops.installation": self._installation_id})
        return folder.resolve() in {path.resolve() for path in mounted}

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
            self._hand_in_requirements(requirements, building)
            self._run_step("resolve", building, output=output, stop=stop or threading.Event())
            lock = (building / "lock.txt").read_text()
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
        for folder in _folders(self._root / "building"):
            if is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.add(folder.name)
        return sorted(removed)

    def _build(
        self, requirements: Sequence[str], *, output: Output, stop: threading.Event
    ) -> Environment:
        started = time.monotonic()
        count = len(requirements)
        noun = "requirement" if count == 1 else "requirements"
        output(f"Resolving {count} {noun}\n".encode())
        with self._build_folder() as building:
            self._hand_in_requirements(requirements, building)
            self._run_step("build", building, output=output, stop=stop)
            key = self._key((building / "lock.txt").read_text())
            if (building / "environment").is_dir():
                self._publish_environment(building, key)
        self._remember(requirements, key)
        return self._ready(key, started, output=output)

    def _restore(
        self, kept: Path, key: str, *, output: Output, stop: threading.Event
    ) -> Environment:
        started = time.monotonic()
        output(f"Building environment {key} from its lock\n".encode())
        with self._build_folder() as building:
            for name in LOCK_FILES:
                _hand_in(building / name, (kept / name).read_text().splitlines())
            self._run_step("install", building, output=output, stop=stop)
            self._publish_environment(building, key)
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

    def _publish_environment(self, building: Path, key: str) -> None:
        """Its lock goes first: an environment that is there can always be built again."""
        texts = {name: (building / name).read_text() for name in LOCK_FILES}
        _keep(self._root / "kept" / key, {**texts, "size": str(_size(building / "environment"))})
        for name, text in texts.items():
            (building / "environment" / name).write_text(text)
        _publish(building / "environment", self._root / "envs" / key)

    def _hand_in_requirements(self, requirements: Sequence[str], building: Path) -> None:
        """Raises EnvironmentFailed for one that the operator does not allow."""
        for requirement in requirements:
            name = _normalised(requirement).name
            refusal = self._rules.refusal_of(name)
            if refusal and (name in self._rules.denied or name not in BASELINE_NAMES):
                raise _denied(refusal, name)
        wanted, constraints = _with_baseline(requirements)
        _hand_in(building / "requirements.in", wanted)
        _hand_in(building / "constraints.in", constraints)

    def _run_step(
        self, step: str, building: Path, *, output: Output, stop: threading.Event
    ) -> None:
        """One locked-down container that does one step; its output is passed on line by line."""
        _hand_in(building / "order.json", [self._order()])
        command = ["python3", "-u", "/opt/mlops/build_environment.py", step]
        command.append(f"/store/building/{building.name}")
        spec = build_spec(
            name=f"mlops-{self._installation_id}-build-{building.name}-{step}",
            image=self._image,
            command=command,
            store_folder=self._root,
            user=_builder(),
            wheels_folder=self._rules.wheels,
            variables=self._rules.variables(),
            network=self._network,
            limits=BUILD_LIMITS,
            labels={"mlops.installation": self._installation_id, BUILD_LABEL: building.name},
        )
        text = bytearray()
        masked = _Masked(self._rules, output, text)
        container = self._engine.create(spec)
        try:
            timed_out = self._follow(container, output=masked.take, stop=stop)
            masked.flush()
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
            about = _about(building / "failure.json")
            raise failure_of(code, text.decode(errors="replace"), about, max_mb=self._rules.max_mb)

    def _order(self) -> str:
        values = {
            "base": self._image_base(),
            "max_mb": self._rules.max_mb,
            "denied": sorted(self._rules.denied),
            "offline": self._rules.offline,
        }
        return json.dumps(values)

    def _follow(self, container: str, *, output: Output, stop: threading.Event) -> bool:
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
        for name in STORE_FOLDERS:
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
        return _hash("\n".join([LAYOUT, self._image_base(), *sorted(wanted), "--", *constraints]))

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


class _Masked:
    """Passes output on by whole lines, without what only build containers may know."""

    def __init__(self, rules: BuildRules, output: Output, text: bytearray) -> None:
        self._rules = rules
        self._output = output
        self._text = text
        self._rest = b""

    def take(self, data: bytes) -> None:
        lines, newline, self._rest = (self._rest + data).rpartition(b"\n")
        self._pass_on(lines + newline)

    def flush(self) -> None:
        rest, self._rest = self._rest, b""
        self._pass_on(rest)

    def _pass_on(self, data: bytes) -> None:
        if data:
            shown = self._rules.masked(data.decode(errors="replace")).encode()
            self._text += shown
            self._output(shown)


def _unheard(data: bytes) -> None:
    """Output that nobody follows."""


def _about(path: Path) -> dict[str, Any]:
    """What the container says that its refusal is about."""
    try:
        about = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def failure_of(
    code: int | None, text: str, about: Mapping[str, Any], *, max_mb: int = 0
) -> EnvironmentFailed:
    """Puts a refusal of the build container into our words; uv tells reasons apart by text only.

    `about` is what the container found out of it: a package, and the versions that there are.
    """
    package = str(about.get("package", ""))
    if code == TOO_LARGE:
        return EnvironmentFailed(
            reason="environment_too_large",
            detail=f"The environment has at least {about.get('mb', 0)} MB, and may have {max_mb}.",
            hint="Ask for fewer or smaller packages, such as a build for CPUs only.",
        )
    if code == DENIED:
        return _denied(
            f"The requirements bring the package {package}, which the operator does not allow.",
            package,
        )
    if code == NO_HASH:
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail=f"The package index gives no SHA-256 for {package}, so it cannot be locked.",
            hint="Ask the operator for an index that gives hashes.",
            package=package,
        )
    if code is not None and code > 128:
        return EnvironmentFailed(
            reason="environment_build_failed",
            detail="Installing the requirements was ended by the system, most likely for memory.",
            hint="Ask for fewer or smaller packages.",
        )
    return _uv_failure(text, package, about)


def _uv_failure(text: str, package: str, about: Mapping[str, Any]) -> EnvironmentFailed:
    told = " ".join(text.replace("│", " ").replace("╰─▶", " ").split())
    lowered = told.lower()
    if any(mark in lowered for mark in ("failed to fetch", "error sending request", "dns error")):
        return EnvironmentFailed(
            reason="package_index_unreachable",
            detail="The package index cannot be reached from the build container.",
            hint="Check the network, proxy and certificate settings of the platform, then retry.",
        )
    if any(mark in lowered for mark in ("401 unauthorized", "403 forbidden")):
        return EnvironmentFailed(
            reason="package_index_unreachable",
            detail="The package index does not let the platform in.",
            hint="The operator has to check the names and passwords of the package indexes.",
        )
    if "failed to parse" in lowered or "couldn't parse requirement" in lowered:
        return EnvironmentFailed(
            reason="requirements_invalid", detail=_tail(told), hint="Mend the requirement."
        )
    missing = ("not found in the p", "there are no versions", "there is no version")
    if any(mark in lowered for mark in missing) or "no wheels" in lowered or "usable wheel" in told:
        return EnvironmentFailed(
            reason="requirements_not_found",
            detail=_tail(told),
            hint=_versions_hint(package, about),
            package=package,
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


def _denied(sentence: str, package: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        reason="requirements_denied",
        detail=sentence,
        hint="Use another package, or ask the operator to allow this one.",
        package=package,
    )


def _versions_hint(package: str, about: Mapping[str, Any]) -> str:
    """The newest versions that there are for this Python, where the index said so."""
    versions = sorted(_readable(about.get("versions", [])), reverse=True)
    if versions:
        shown = ", ".join(str(version) for version in versions[:VERSIONS_SHOWN])
        more = f" and {len(versions) - VERSIONS_SHOWN} older" if versions[VERSIONS_SHOWN:] else ""
        return f"For this Python {package} comes in {shown}{more}."
    if about.get("only_sources"):
        return f"{package} comes as source only; packages with a wheel for this Python install."
    return "Check name and version; only packages with a wheel for this Python install."


def _readable(versions: Iterable[object]) -> Iterator[Version]:
    for text in versions:
        with contextlib.suppress(InvalidVersion):
            yield Version(str(text))


def _tail(told: str) -> str:
    """What follows the last "Because" or "error:", which is where uv says why; without its hints,
    which speak of options that a user here does not have."""
    _, _, after = told.rpartition("error:")
    start = told.find("Because")
    sentence = told[start:] if start >= 0 else after.strip()
    sentence = sentence.partition(" hint: ")[0]
    if len(sentence) > DETAIL_CHARACTERS:
        return f"{sentence[:DETAIL_CHARACTERS]} …"
    return sentence


def _keep(folder: Path, texts: Mapping[str, str]) -> None:
    """The files of an environment that outlive it, each in one step."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        aside = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        aside.write_text(text)
        aside.replace(folder / name)


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)


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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
