"""Which source distribution to build, and the wheel that comes of it: read with suspicion.

A source's own code ran where the wheel was made. So nothing of that folder is followed, opened or
believed but one regular file with the name that was asked for.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from sandbox.environment_failures import EnvironmentFailed

# In one environment: each is a container more, one after another.
SOURCES_MAX = 10
WHEEL_MAX_BYTES = 500_000_000
# What a build backend asks for beside what `pyproject.toml` says.
NEEDS_FILE = "needs.json"
NEEDS_BYTES = 100_000
NEEDS_MAX = 50


@dataclass(frozen=True)
class Source:
    """One file that an index has."""

    package: str
    version: Version
    file: str


def newest_source(package: str, files: Sequence[str], requirements: Sequence[str]) -> Source | None:
    """The newest of these files that the requirements take; no pre-release where others fit."""
    name = canonicalize_name(package)
    wanted = SpecifierSet()
    for requirement in map(Requirement, requirements):
        if canonicalize_name(requirement.name) == name:
            wanted &= requirement.specifier
    sources = {source.version: source for source in _read(files) if source.package == name}
    fitting = list(wanted.filter(sources))
    return sources[max(fitting)] if fitting else None


def needs_of(source: Source, folder: Path) -> tuple[str, ...]:
    """What a source's own build backend asks for, where hostile code wrote: names and versions.

    Raises EnvironmentFailed when it is anything else.
    """
    try:
        texts = json.loads(_read_file(folder, NEEDS_FILE, max_bytes=NEEDS_BYTES))
        needs = tuple(_plain_requirement(text) for text in texts)
    except (OSError, ValueError, TypeError, RecursionError):
        needs = ()
    if not needs or len(needs) > NEEDS_MAX:
        raise EnvironmentFailed(
            reason="environment_build_failed",
            detail=f"{source.file} does not say what it needs to be built.",
            hint=f"Its build backend must name at most {NEEDS_MAX} packages, without addresses.",
            package=source.package,
        )
    return needs


def take_wheel(source: Source, made: Path, target: Path) -> None:
    """Copies the wheel of this source out of `made`, where hostile code wrote.

    Raises EnvironmentFailed when it is not there, or is no regular file.
    """
    target.mkdir(exist_ok=True)
    target.chmod(0o755)
    with contextlib.suppress(OSError):
        folder = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # By the handle: the path may be something else than what was opened.
            names = os.listdir(folder)  # noqa: PTH208
            name = next(name for name in names if _is_wheel_of(source, name))
            _copy(folder, name, target / name)
            return
        except StopIteration:
            pass
        finally:
            os.close(folder)
    raise EnvironmentFailed(
        reason="environment_build_failed",
        detail=f"Building {source.file} made no wheel of {source.package} {source.version}.",
        hint="The job's log has the whole output of the build.",
        package=source.package,
    )


def _plain_requirement(text: object) -> str:
    """Raises ValueError for one that names a place to get it from."""
    requirement = Requirement(text if isinstance(text, str) else "")
    if requirement.url:
        raise ValueError(text)
    return str(requirement)


def _read_file(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """Raises OSError for what is no regular file of that size."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    finally:
        os.close(place)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode) or about.st_size > max_bytes:
            raise OSError(f"{name} is no small file")
        return file.read(max_bytes)


def _copy(folder: int, name: str, target: Path) -> None:
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(handle, "rb") as wheel:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode) or about.st_size > WHEEL_MAX_BYTES:
            raise OSError(f"{name} is no wheel")
        with target.open("wb") as copy:
            shutil.copyfileobj(wheel, copy)
    target.chmod(0o644)


def _read(files: Sequence[str]) -> Iterator[Source]:
    for file in files:
        with contextlib.suppress(InvalidSdistFilename):
            name, version = parse_sdist_filename(file)
            yield Source(name, version, file)


def _is_wheel_of(source: Source, name: str) -> bool:
    try:
        package, version, _, _ = parse_wheel_filename(name)
    except InvalidWheelFilename:
        return False
    return (package, version) == (source.package, source.version)
