"""Gets one source distribution, and reads what it needs to be built; runs and unpacks nothing.

Used by the build container that has the network and the passwords of indexes, so the source's own
code must never run there.
"""

import hashlib
import re
import shutil
import tarfile
import tomllib
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import index_pages

SOURCE_BYTES = 200 * index_pages.MB
PROJECT_BYTES = 1 * index_pages.MB
# PEP 518: what is needed where a project does not say.
USUAL = ("setuptools>=40.8.0", "wheel")
REQUIREMENTS_MAX = 50


class NotFetched(Exception):
    """The source cannot be had; the message is for whoever reads the log."""


@dataclass(frozen=True)
class Needed:
    """What must be there before the source can be built."""

    requirements: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        names = (re.split(r"[^A-Za-z0-9._-]", text.strip())[0] for text in self.requirements)
        return [re.sub(r"[-_.]+", "-", name).lower() for name in names]


def fetch(wanted: dict[str, Any], folder: Path, *, wheels: Path, offline: bool) -> Needed:
    """The file of that name, with the hash that the index tells; `needs` is what its build backend
    asked for. Raises NotFetched."""
    files = index_pages.files_of(wanted["package"], wheels=wheels, offline=offline)
    found = next((file for file in files if file.name == wanted["file"]), None)
    if found is None:
        raise NotFetched(f"error: {wanted['file']} is not in the index any more")
    target = folder / "source.tar.gz"
    try:
        if found.url.startswith("file:"):
            shutil.copyfile(unquote(urlsplit(found.url).path), target)
        else:
            index_pages.download(found.url, target, max_bytes=SOURCE_BYTES)
    except (urllib.error.URLError, OSError, ValueError):
        raise NotFetched(f"error: Failed to fetch: {wanted['file']}") from None
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    if found.sha256 and digest != found.sha256:
        raise NotFetched(f"error: {wanted['file']} is not the file that the index tells of")
    return Needed(_plain((*_requirements(target), *wanted.get("needs", ()))))


def _requirements(archive: Path) -> tuple[str, ...]:
    """Of its `pyproject.toml`."""
    try:
        with tarfile.open(archive) as tar:
            project = _project_of(tar)
        asked = tomllib.loads(project).get("build-system", {}).get("requires", USUAL)
    except (tarfile.TarError, EOFError, OSError, ValueError):
        raise NotFetched("error: the source is no archive with a readable pyproject.toml") from None
    if not isinstance(asked, list | tuple):
        raise NotFetched("error: build-system.requires is no list")
    return tuple(str(text) for text in asked)


def _plain(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Raises NotFetched for what is no name with versions."""
    plain = all(re.match(r"[A-Za-z0-9]", text) and "@" not in text for text in texts)
    if not plain or len(texts) > REQUIREMENTS_MAX:
        raise NotFetched("error: what it needs to be built is more than names and versions")
    return texts


def _project_of(tar: tarfile.TarFile) -> str:
    for member in tar:
        if member.isfile() and re.fullmatch(r"[^/]+/pyproject\.toml", member.name):
            file = tar.extractfile(member)
            return file.read(PROJECT_BYTES).decode() if file else ""
    return ""
