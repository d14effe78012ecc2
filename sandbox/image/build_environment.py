"""Runs in a build container: requirements in, a compiled read-only environment folder out.

Standard library only. Installs wheels and nothing else, since a source distribution would run its
own code here, beside the cache that every environment shares. Prints what it does; exit codes say
which step failed. What a refusal is about goes to `failure.json`, for whoever puts it into words.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bytecode
import fetch_source
import index_pages
import lock_file

UV = "/opt/mlops/uv"
STORE = Path("/store")
WHEELS = Path("/wheels")
RESOLVE_FAILED, INSTALL_FAILED, COMPILE_FAILED = 2, 3, 4
TOO_LARGE, DENIED, NO_HASH = 5, 6, 7
QUIET = ["--quiet", "--no-config"]
WHEELS_ONLY = ["--only-binary", ":all:"]
MB = 1_000_000
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Order:
    """What the operator allows, and what the environment is made for."""

    base: str
    max_mb: int
    denied: frozenset[str]
    offline: bool
    cache: str
    built: Path

    @classmethod
    def read(cls, folder: Path) -> "Order":
        values = json.loads((folder / "order.json").read_text())
        checked = {"denied": frozenset(values["denied"]), "built": folder / "wheels"}
        return cls(**{**values, **checked})

    @property
    def common(self) -> list[str]:
        return [*QUIET, "--cache-dir", str(STORE / self.cache)]

    @property
    def bytecode(self) -> Path:
        return STORE / f"{self.cache}-bytecode"

    @property
    def sources(self) -> list[str]:
        """Where uv looks beside the indexes that are in its variables."""
        folders = [folder for folder in (WHEELS, self.built) if folder.is_dir()]
        links = [word for folder in folders for word in ("--find-links", str(folder))]
        return [*links, "--no-index"] if self.offline else links


class Refused(Exception):
    """The environment is not to be made; `about` is for whoever puts it into words."""

    def __init__(self, code: int, **about: Any) -> None:
        super().__init__(code)
        self.code = code
        self.about = about


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "step", choices=["resolve", "build", "install", "platform", "prune", "fetch"]
    )
    parser.add_argument("folder", type=Path, help="a folder below /store/building, made by us")
    arguments = parser.parse_args()
    steps = {
        "resolve": resolve,
        "build": build,
        "install": install_lock,
        "platform": install_platform,
        "prune": prune,
        "fetch": fetch,
    }
    try:
        steps[arguments.step](arguments.folder, Order.read(arguments.folder))
    except Refused as refused:
        (arguments.folder / "failure.json").write_text(json.dumps(refused.about))
        return refused.code
    return 0


def resolve(folder: Path, order: Order) -> lock_file.Lock:
    """`requirements.in` and `constraints.in` become `lock.txt` and `pylock.toml`."""
    found = folder / "pylock.found.toml"
    command = [UV, "pip", "compile", *order.common, *WHEELS_ONLY, *order.sources, "--no-header"]
    command += ["--generate-hashes", "--format", "pylock.toml", "--python", sys.executable]
    command += ["--constraint", str(folder / "constraints.in")]
    command += ["--output-file", str(found), str(folder / "requirements.in")]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr, flush=True)
        about = index_pages.missing_package(done.stderr, wheels=WHEELS, offline=order.offline)
        raise Refused(RESOLVE_FAILED, **about)
    try:
        lock = lock_file.read(found.read_text())
    except lock_file.NoHash as error:
        raise Refused(NO_HASH, package=str(error)) from error
    denied = [package.name for package in lock.packages if package.name in order.denied]
    if denied:
        raise Refused(DENIED, package=denied[0])
    (folder / "lock.txt").write_text(lock.requirements())
    (folder / "pylock.toml").write_text(lock.pylock())
    return lock


def build(folder: Path, order: Order) -> None:
    """Resolves, and installs unless the store has what came of it."""
    lock = resolve(folder, order)
    if not (STORE / "envs" / lock.key(order.base) / "lock.txt").exists():
        download_mb = sum(package.download_bytes for package in lock.packages) // MB
        if order.max_mb and download_mb > order.max_mb:
            raise Refused(TOO_LARGE, mb=download_mb)
        install_lock(folder, order)


def install_lock(folder: Path, order: Order) -> None:
    """`lock.txt` becomes a relocatable environment in `environment/`, to be mounted at /env."""
    environment = folder / "environment"
    lock = folder / "lock.txt"
    print(f"Installing {len(lock_file.pins_in(lock.read_text()))} packages", flush=True)
    make = [
        UV,
        "venv",
        *order.common,
        "--relocatable",
        "--python",
        sys.executable,
        str(environment),
    ]
    fill = [UV, "pip", "sync", *order.common, *WHEELS_ONLY, *order.sources, "--require-hashes"]
    fill += ["--link-mode", "hardlink", "--python", str(environment / "bin" / "python"), str(lock)]
    for command in (make, fill):
        if _run_within(command, environment, max_mb=order.max_mb):
            raise Refused(INSTALL_FAILED)
    print("Compiling", flush=True)
    _compile(environment / "lib", order, shown_as="/env/lib")


def install_platform(folder: Path, order: Order) -> None:
    """`requirements.in` becomes a plain folder for the end of `sys.path`, mounted at /platform."""
    target = folder / "environment"
    command = [UV, "pip", "install", "--no-deps", *order.common, *WHEELS_ONLY, *order.sources]
    command += ["--link-mode", "hardlink", "--python", sys.executable, "--target", str(target)]
    command += ["--requirements", str(folder / "requirements.in")]
    if subprocess.run(command).returncode:
        raise Refused(INSTALL_FAILED)
    _compile(target, order, shown_as="/platform")


def prune(folder: Path, order: Order) -> None:
    """Removes from uv's cache what can be downloaded again; environments keep their own links."""
    if subprocess.run([UV, "cache", "prune", *order.common, "--ci"]).returncode:
        raise Refused(INSTALL_FAILED)
    bytecode.forget_unused(order.bytecode)


def fetch(folder: Path, order: Order) -> None:
    """The source that `source.json` names, and what it needs to be built, become `source/`."""
    wanted = json.loads((folder / "source.json").read_text())
    try:
        needed = fetch_source.fetch(wanted, folder / "source", wheels=WHEELS, offline=order.offline)
    except fetch_source.NotFetched as error:
        print(error, file=sys.stderr, flush=True)
        raise Refused(INSTALL_FAILED, package=wanted["package"]) from error
    denied = [name for name in needed.names if name in order.denied]
    if denied:
        raise Refused(DENIED, package=denied[0])
    if not needed.requirements:
        return
    # Copies: whatever is built next may write to these, and must not write to a cache.
    command = [UV, "pip", "install", *order.common, *WHEELS_ONLY, *order.sources]
    command += ["--link-mode", "copy", "--python", sys.executable]
    command += ["--target", str(folder / "source" / "needed"), "--", *needed.requirements]
    if subprocess.run(command).returncode:
        raise Refused(INSTALL_FAILED, package=wanted["package"])


def _run_within(command: Sequence[str], folder: Path, *, max_mb: int) -> int:
    """The exit code of what fills `folder`, which is ended as soon as that grows too large."""
    process = subprocess.Popen(command)
    over = threading.Event()

    def watch() -> None:
        while max_mb and not over.wait(LOOK_SECONDS):
            if _size_mb(folder) > max_mb:
                process.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    size_mb = _size_mb(folder)
    if max_mb and size_mb > max_mb:
        raise Refused(TOO_LARGE, mb=size_mb)
    return code


def _size_mb(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder)) // MB


def _files(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry


def _compile(folder: Path, order: Order, *, shown_as: str) -> None:
    """Bytecode now, or every job pays for it: the folder is mounted read-only."""
    paths = [entry.path for entry in _files(folder) if entry.name.endswith(".py")]
    if not bytecode.compile_all(paths, folder, shown_as=shown_as, kept=order.bytecode):
        raise Refused(COMPILE_FAILED)


if __name__ == "__main__":
    sys.exit(main())
