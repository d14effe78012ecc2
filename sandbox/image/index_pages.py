"""What a package index, or a folder of wheels, has of one package: asked when uv found nothing.

Standard library only; no more than one page of one index is asked for. Nothing here runs anything.
"""

import contextlib
import html
import json
import os
import platform
import re
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

INDEX_SECONDS = 10.0
FILE_SECONDS = 60.0
MB = 1_000_000
INDEX_BYTES = 32 * MB
PUBLIC_INDEX = "https://pypi.org/simple"
INDEX_TYPES = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
SOURCE_ENDING = ".tar.gz"
SOURCES_MAX = 200
OUR_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LINK = re.compile(r"<a [^>]*href=[\"']([^\"']+)[\"'][^>]*>([^<]+)</a>")
# What uv says of a package that it could not find, or only in other versions.
WITHOUT_VERSION = re.compile(
    r"no versions? of ([\w.-]+)|([\w.-]+)\S* has no (?:usable )?wheels"
    r"|all versions of ([\w.-]+) have no|versions of ([\w.-]+) are available"
)
WITHOUT_PACKAGE = re.compile(r"([\w.-]+) was not found in the p")


@dataclass(frozen=True)
class IndexFile:
    """One file of a package. `url` may hold a name and a password; `sha256` is empty if untold."""

    name: str
    url: str = ""
    sha256: str = ""


def missing_package(told: str, *, wheels: Path, offline: bool) -> dict[str, Any]:
    """The package that uv did not find, or not in that version; then with the versions there are,
    and the sources, of which no address gets out of the build container."""
    flat = " ".join(told.split())
    missing = WITHOUT_PACKAGE.search(flat)
    if missing:
        return {"package": missing[1]}
    wanted = WITHOUT_VERSION.search(flat)
    if wanted is None:
        return {}
    name = re.split(r"[<>=!~\[]", next(filter(None, wanted.groups())))[0].rstrip(".")
    files = files_of(name, wheels=wheels, offline=offline)
    sources = [file.name for file in files if file.name.endswith(SOURCE_ENDING)]
    return {
        "package": name,
        "python": OUR_PYTHON,
        "versions": sorted({_version(file.name) for file in files if _fits(file.name)}),
        "pythons": sorted({python for file in files for python in _pythons_of(file.name)}, key=int),
        "only_sources": bool(files) and not any(file.name.endswith(".whl") for file in files),
        "sources": sources[-SOURCES_MAX:],
    }


def files_of(name: str, *, wheels: Path, offline: bool) -> list[IndexFile]:
    """A package's files, from the first index that has it; empty when none answers."""
    normalised = re.sub(r"[-_.]+", "-", name).lower()
    local = [
        IndexFile(path.name, url=path.as_uri())
        for path in sorted([*wheels.glob("*.whl"), *wheels.glob(f"*{SOURCE_ENDING}")])
        if _package(path.name) == normalised
    ]
    if offline or local:
        return local
    indexes = os.environ.get("UV_INDEX", "").split()
    for index in [*indexes, os.environ.get("UV_DEFAULT_INDEX") or PUBLIC_INDEX]:
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            return _listed(f"{index.rstrip('/')}/{normalised}/")
    return []


def download(url: str, target: Path, *, max_bytes: int) -> None:
    """Raises URLError, OSError, ValueError; the last for what is larger."""
    with _opened(url, accept="*/*", seconds=FILE_SECONDS) as answer, target.open("wb") as file:
        while data := answer.read(MB):
            file.write(data)
            if file.tell() > max_bytes:
                raise ValueError("too large")


def _listed(address: str) -> list[IndexFile]:
    """The files of one page of an index, JSON or HTML. Raises URLError, OSError, ValueError."""
    with _opened(address, accept=INDEX_TYPES, seconds=INDEX_SECONDS) as answer:
        text = answer.read(INDEX_BYTES).decode()
        if "json" in answer.headers.get("Content-Type", ""):
            return [
                IndexFile(
                    str(file["filename"]),
                    url=urljoin(address, str(file["url"])),
                    sha256=str(file.get("hashes", {}).get("sha256", "")),
                )
                for file in json.loads(text)["files"]
            ]
    return [_linked(address, *link) for link in LINK.findall(text)]


def _linked(address: str, target: str, name: str) -> IndexFile:
    url, fragment = urldefrag(urljoin(address, html.unescape(target)))
    kind, _, digest = fragment.partition("=")
    return IndexFile(html.unescape(name).strip(), url, digest if kind == "sha256" else "")


def _opened(address: str, *, accept: str, seconds: float) -> Any:
    parts = urlsplit(address)
    userinfo, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    request = urllib.request.Request(bare, headers={"Accept": accept})  # noqa: S310
    if userinfo:
        login = b64encode(unquote(userinfo).encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    return urllib.request.urlopen(request, timeout=seconds)  # noqa: S310


def _package(file: str) -> str:
    """The name of a source may hold hyphens itself; that of a wheel does not."""
    is_source = file.endswith(SOURCE_ENDING)
    name = file.rpartition("-")[0] if is_source else file.partition("-")[0]
    return re.sub(r"[-_.]+", "-", name).lower()


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


def _pythons_of(file: str) -> list[str]:
    """The minor versions of Python 3 that a wheel is for, if it is for this machine."""
    if not file.endswith(".whl") or file.count("-") < 4:
        return []
    python, _, machine = file.removesuffix(".whl").rsplit("-", 3)[1:]
    if not _any_of(machine.split("."), ("any", platform.machine())):
        return []
    return re.findall(r"cp3(\d+)", python)


def _any_of(tags: Iterable[str], endings: tuple[str, ...]) -> bool:
    return any(tag.endswith(endings) and not tag.startswith(("win", "macosx")) for tag in tags)
