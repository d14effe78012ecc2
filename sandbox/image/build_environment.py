"""Runs in a build container: requirements in, a compiled read-only environment folder out.

Standard library only. Installs wheels and nothing else, since a source distribution would run its
own code here, beside the cache that every environment shares. Prints what it does; exit codes say
which step failed. What a refusal is about goes to `failure.json`, for whoever puts it into words.
"""

import argparse
import contextlib
import html
import json
import os
import platform
import py_compile
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import lock_file

UV = "/opt/mlops/uv"
STORE = Path("/store")
WHEELS = Path("/wheels")
RESOLVE_FAILED, INSTALL_FAILED, COMPILE_FAILED = 2, 3, 4
TOO_LARGE, DENIED, NO_HASH = 5, 6, 7
COMMON = ["--quiet", "--no-config", "--cache-dir", str(STORE / "cache")]
WHEELS_ONLY = ["--only-binary", ":all:"]
MB = 1_000_000
LOOK_SECONDS = 2.0
INDEX_SECONDS = 10.0
INDEX_BYTES = 32 * MB
PUBLIC_INDEX = "https://pypi.org/simple"
INDEX_TYPES = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
# What uv says of a package that it could not find, or only in other versions.
WITHOUT_VERSION = re.compile(
    r"no versions? of ([\w.-]+)|([\w.-]+)\S* has no wheels with|all versions of ([\w.-]+) have no"
    r"|versions of ([\w.-]+) are available"
)
WITHOUT_PACKAGE = re.compile(r"([\w.-]+) was not found in the p")


@dataclass(frozen=True)
class Order:
    """What the operator allows, and what the environment is made for."""

    base: str
    max_mb: int
    denied: frozenset[str]
    offline: bool

    @classmethod
    def read(cls, folder: Path) -> "Order":
        values = json.loads((folder / "order.json").read_text())
        return cls(**{**values, "denied": frozenset(values["denied"])})

    @property
    def sources(self) -> list[str]:
        """Where uv looks beside the indexes that are in its variables."""
        links = ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []
        return [*links, "--no-index"] if self.offline else links


class Refused(Exception):
    """The environment is not to be made; `about` is for whoever puts it into words."""

    def __init__(self, code: int, **about: Any) -> None:
        super().__init__(code)
        self.code = code
        self.about = about


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["resolve", "build", "install", "platform", "prune"])
    parser.add_argument("folder", type=Path, help="a folder below /store/building, made by us")
    arguments = parser.parse_args()
    steps = {
        "resolve": resolve,
        "build": build,
        "install": install_lock,
        "platform": install_platform,
        "prune": prune,
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
    command = [UV, "pip", "compile", *COMMON, *WHEELS_ONLY, *order.sources, "--no-header"]
    command += ["--generate-hashes", "--format", "pylock.toml", "--python", sys.executable]
    command += ["--constraint", str(folder / "constraints.in")]
    command += ["--output-file", str(found), str(folder / "requirements.in")]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr, flush=True)
        raise Refused(RESOLVE_FAILED, **_about(done.stderr, order))
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
    make = [UV, "venv", *COMMON, "--relocatable", "--python", sys.executable, str(environment)]
    fill = [UV, "pip", "sync", *COMMON, *WHEELS_ONLY, *order.sources, "--require-hashes"]
    fill += ["--link-mode", "hardlink", "--python", str(environment / "bin" / "python"), str(lock)]
    for command in (make, fill):
        if _run_within(command, environment, max_mb=order.max_mb):
            raise Refused(INSTALL_FAILED)
    print("Compiling", flush=True)
    _compile(environment / "lib", shown_as="/env/lib")


def install_platform(folder: Path, order: Order) -> None:
    """`requirements.in` becomes a plain folder for the end of `sys.path`, mounted at /platform."""
    target = folder / "environment"
    command = [UV, "pip", "install", "--no-deps", *COMMON, *WHEELS_ONLY, *order.sources]
    command += ["--link-mode", "hardlink", "--python", sys.executable, "--target", str(target)]
    command += ["--requirements", str(folder / "requirements.in")]
    if subprocess.run(command).returncode:
        raise Refused(INSTALL_FAILED)
    _compile(target, shown_as="/platform")


def prune(folder: Path, order: Order) -> None:
    """Removes from uv's cache what can be downloaded again; environments keep their own links."""
    if subprocess.run([UV, "cache", "prune", *COMMON, "--ci"]).returncode:
        raise Refused(INSTALL_FAILED)


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


def _compile(folder: Path, *, shown_as: str) -> None:
    """Bytecode now, or every job pays for it: the folder is mounted read-only.

    By processes of this one, which imports nothing of the environment: its `.pth` files would run
    code of its packages here. Each takes every so many-th file, the largest first, since handing
    them out one by one costs a quarter of the time (`bench/environments.py`). Files that are not
    valid for this Python (templates, test data) are no failure: their import is.
    """
    sources = [entry for entry in _files(folder) if entry.name.endswith(".py")]
    sources.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_size, reverse=True)
    paths = [entry.path for entry in sources]
    count = len(os.sched_getaffinity(0))
    children = [_forked(paths[start::count], folder, shown_as) for start in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise Refused(COMPILE_FAILED)


def _forked(paths: Sequence[str], folder: Path, shown_as: str) -> int:
    """The id of a process that compiles these; it ends with 1 when the disk takes no more."""
    child = os.fork()
    if child:
        return child
    code = 1
    # Packages' own warnings (an escape that is none) are nobody's business here.
    warnings.simplefilter("ignore")
    try:
        for path in paths:
            with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError):
                py_compile.compile(path, dfile=shown_as + path[len(str(folder)) :], doraise=True)
        code = 0
    except OSError as error:
        print(f"Compiling failed: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


# -- what there is instead -------------------------------------------------------------------------
def _about(told: str, order: Order) -> dict[str, Any]:
    """The package that uv did not find, or not in that version; then with the versions there are.

    No more than one page of one index is asked for.
    """
    flat = " ".join(told.split())
    missing = WITHOUT_PACKAGE.search(flat)
    if missing:
        return {"package": missing[1]}
    wanted = WITHOUT_VERSION.search(flat)
    if wanted is None:
        return {}
    name = re.split(r"[<>=!~\[]", next(filter(None, wanted.groups())))[0].rstrip(".")
    files = _files_of(name, order)
    return {
        "package": name,
        "versions": sorted({_version(file) for file in files if _fits(file)}),
        "only_sources": bool(files) and not any(file.endswith(".whl") for file in files),
    }


def _files_of(name: str, order: Order) -> list[str]:
    """The names of a package's files, from the first index that has it; empty when none answers."""
    normalised = re.sub(r"[-_.]+", "-", name).lower()
    if order.offline:
        return [path.name for path in WHEELS.glob("*.whl") if _package(path.name) == normalised]
    indexes = os.environ.get("UV_INDEX", "").split()
    for index in [*indexes, os.environ.get("UV_DEFAULT_INDEX") or PUBLIC_INDEX]:
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            return _listed(f"{index.rstrip('/')}/{normalised}/")
    return []


def _listed(address: str) -> list[str]:
    """The files of one page of an index, JSON or HTML. Raises URLError, OSError, ValueError."""
    parts = urlsplit(address)
    userinfo, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
    request = urllib.request.Request(bare, headers={"Accept": INDEX_TYPES})  # noqa: S310
    if userinfo:
        request.add_header(
            "Authorization", f"Basic {b64encode(unquote(userinfo).encode()).decode()}"
        )
    with urllib.request.urlopen(request, timeout=INDEX_SECONDS) as answer:  # noqa: S310
        text = answer.read(INDEX_BYTES).decode()
        if "json" in answer.headers.get("Content-Type", ""):
            return [str(file["filename"]) for file in json.loads(text)["files"]]
    return [html.unescape(name).strip() for name in re.findall(r"<a [^>]*>([^<]+)</a>", text)]


def _package(file: str) -> str:
    return re.sub(r"[-_.]+", "-", file.partition("-")[0]).lower()


def _version(file: str) -> str:
    return file.split("-")[1]


def _fits(file: str) -> bool:
    """Whether a wheel is for this Python and machine, by its name; near enough for a hint."""
    if not file.endswith(".whl") or file.count("-") < 4:
        return False
    python, abi, machine = file.removesuffix(".whl").rsplit("-", 3)[1:]
    ours = f"cp{sys.version_info.major}{sys.version_info.minor}"
    interpreter = any(tag in ("py3", ours) for tag in python.split(".")) or abi == "abi3"
    return interpreter and _any_of(machine.split("."), ("any", platform.machine()))


def _any_of(tags: Iterable[str], endings: tuple[str, ...]) -> bool:
    return any(tag.endswith(endings) and not tag.startswith(("win", "macosx")) for tag in tags)


if __name__ == "__main__":
    sys.exit(main())
