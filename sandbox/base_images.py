"""Gets the base images that the operator names: pulled from a registry, or made of Debian packages.

A base is named `registry/name:tag`, `registry/name@sha256:…` or `debian-packages:<suite>`; the
empty name is `python:3.11-slim` where a registry answers, else Debian packages. Whatever is named,
the engine keeps what it has until it is too old or its digest is another one: nothing changes by
itself, and a registry that is away stops nobody who has an image already. What is wanted in all of
them beside Python, such as a compiler, is named as Debian packages.
"""

import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, ImageNotFound

from sandbox.engine import Engine

REGISTRY_URL = "https://registry-1.docker.io/v2/"
REGISTRY_SECONDS = 3
PULLED_BASE = "python:3.11-slim"
DEBIAN_PREFIX = "debian-packages:"
DEBIAN_PACKAGES = "python3,python3-venv,libgomp1,ca-certificates,nftables"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
# No version, no architecture, and no hyphen at the end, by which apt would remove it.
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]")
Report = Callable[[str], None]


class ImageFailed(Exception):
    """The image cannot be made; the message says what is missing, in words for an operator."""


@dataclass(frozen=True)
class BaseImage:
    """One that the engine has. `name` is what the operator calls it, empty for the usual one; `tag`
    is what the engine calls it, and `kind` the same whatever packages were added."""

    name: str
    tag: str
    kind: str
    id: str

    def __str__(self) -> str:
        return self.name or self.tag


def base_names(text: str) -> tuple[str, ...]:
    """From the setting, names between commas or spaces; one empty name when nothing is set.

    Raises ImageFailed.
    """
    names = [part for part in re.split(r"[\s,]+", text) if part]
    wrong = [name for name in names if not NAME.fullmatch(name)]
    if wrong:
        raise ImageFailed(f"MLOPS_BASE_IMAGES: {wrong[0]} is not the name of an image.")
    return tuple(dict.fromkeys(names)) or ("",)


def package_names(text: str) -> tuple[str, ...]:
    """From the setting, names of Debian packages between commas or spaces. Raises ImageFailed."""
    names = [part for part in re.split(r"[\s,]+", text) if part]
    wrong = [name for name in names if not PACKAGE.fullmatch(name)]
    if wrong:
        raise ImageFailed(
            f"MLOPS_BASE_IMAGE_PACKAGES: {wrong[0]} is not the name of a Debian package. "
            "Names alone, such as gcc, without versions."
        )
    return tuple(sorted(set(names)))


def ensure_base(
    engine: Engine,
    name: str = "",
    *,
    packages: Sequence[str] = (),
    max_age: timedelta | None = None,
    report: Report,
) -> BaseImage:
    """The base, got or made where it is missing, or older than `max_age`.

    One of Debian packages is made with `packages`; in another they may be missing. Raises
    ImageFailed.
    """
    source = name or _default_source(engine, packages, report=report)
    if source.startswith(DEBIAN_PREFIX):
        suite = source.removeprefix(DEBIAN_PREFIX)
        tag, kind = _debian_tag(suite, packages), _debian_tag(suite)
        _ensure_debian(engine, suite, packages, tag=tag, max_age=max_age, report=report)
    else:
        tag = kind = _ensure_pulled(engine, source, max_age=max_age, report=report)
    return BaseImage(name=name, tag=tag, kind=kind, id=str(_inspected(engine, tag)["Id"]))


def base_is_present(engine: Engine, packages: Sequence[str] = ()) -> bool:
    """Whether a base image is there already, so that none needs to be pulled or put together."""
    return any(_exists(engine, tag) for tag in (PULLED_BASE, _debian_tag(_suite(), packages)))


# -- from a registry -------------------------------------------------------------------------------
def _default_source(engine: Engine, packages: Sequence[str], *, report: Report) -> str:
    debian = f"{DEBIAN_PREFIX}{_suite()}"
    if _exists(engine, PULLED_BASE):
        return PULLED_BASE
    if _exists(engine, _debian_tag(_suite(), packages)) or not _registry_answers():
        return debian
    try:
        _pull(engine, PULLED_BASE, report=report)
    except ImageFailed as failed:
        report(f"{failed} Using Debian packages instead")
        return debian
    return PULLED_BASE


def _ensure_pulled(
    engine: Engine, source: str, *, max_age: timedelta | None, report: Report
) -> str:
    there = _exists(engine, source)
    if there and (DIGEST.fullmatch(source) or not _is_old(engine, source, max_age)):
        return source
    try:
        _pull(engine, source, report=report)
    except ImageFailed as failed:
        if not there:
            raise
        report(f"{failed} The one that is there is used")
    return source


def _pull(engine: Engine, source: str, *, report: Report) -> None:
    """Raises ImageFailed."""
    report(f"Pulling {source}")
    name, tag = _name_and_tag(source)
    try:
        engine.api.pull(name, tag)
    except (APIError, requests.RequestException) as error:
        told = getattr(error, "explanation", None) or error
        raise ImageFailed(f"The image {source} cannot be pulled ({told}).") from error
    if not _exists(engine, source):
        raise ImageFailed(f"The registry has no image {source}.")
    digests = _inspected(engine, source).get("RepoDigests") or []
    if digests and not DIGEST.fullmatch(source):
        report(f"{source} is {digests[0].partition('@')[2]}")


def _name_and_tag(source: str) -> tuple[str, str]:
    """Without a tag the engine would pull every one there is."""
    if "@" in source:
        name, _, digest = source.partition("@")
        return name, digest
    name, colon, tag = source.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (source, "latest")


def _registry_answers() -> bool:
    try:
        answer = requests.get(REGISTRY_URL, timeout=REGISTRY_SECONDS)
    except requests.RequestException:
        return False
    return answer.status_code in (200, 401)


# -- of Debian packages ----------------------------------------------------------------------------
def _ensure_debian(
    engine: Engine,
    suite: str,
    packages: Sequence[str],
    *,
    tag: str,
    max_age: timedelta | None,
    report: Report,
) -> None:
    there = _exists(engine, tag)
    if there and not _is_old(engine, tag, max_age):
        return
    try:
        _import_debian(engine, suite, packages, tag=tag, report=report)
    except ImageFailed as failed:
        if not there:
            raise
        report(f"{failed} The one that is there is used")


def _import_debian(
    engine: Engine, suite: str, packages: Sequence[str], *, tag: str, report: Report
) -> None:
    if not shutil.which("mmdebstrap"):
        raise ImageFailed(
            f"No registry answers and mmdebstrap is not installed. Install it "
            f"(apt-get install mmdebstrap), or load an image {PULLED_BASE} into Docker."
        )
    beside = f", with {', '.join(packages)}" if packages else ""
    report(f"Making a base image from Debian packages of {suite}{beside} (about 30 s)")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "root.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase"]
        command += [f"--include={','.join([DEBIAN_PACKAGES, *packages])}", suite, str(archive)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            named = f"MLOPS_BASE_IMAGE_PACKAGES={','.join(packages)}: " if packages else ""
            raise ImageFailed(f"{named}mmdebstrap failed: {done.stderr.strip()[-400:]}")
        repository, _, name = tag.partition(":")
        engine.api.import_image_from_file(str(archive), repository=repository, tag=name)


def _suite() -> str:
    """The Debian suite of this host; on another system, the one whose Python we support."""
    release = platform.freedesktop_os_release()
    known = release.get("ID") in ("debian", "ubuntu")
    return release.get("VERSION_CODENAME", "bookworm") if known else "bookworm"


def _debian_tag(suite: str, packages: Sequence[str] = ()) -> str:
    """With other packages it is another base: the old one lacks something."""
    what = hashlib.sha256(",".join([DEBIAN_PACKAGES, *packages]).encode()).hexdigest()[:8]
    return f"mlops-base:debian-{suite}-{what}"


# -- what the engine has ---------------------------------------------------------------------------
def _is_old(engine: Engine, tag: str, max_age: timedelta | None) -> bool:
    """By when this engine got it: an image of a registry may have been made long before."""
    if max_age is None:
        return False
    inspected = _inspected(engine, tag)
    moments = [inspected.get("Created"), (inspected.get("Metadata") or {}).get("LastTagTime")]
    known = [_moment(text) for text in moments if text and not text.startswith("0001")]
    return not known or datetime.now(UTC) - max(known) > max_age


def _moment(text: str) -> datetime:
    """The engine writes nanoseconds, which Python cannot read."""
    moment = datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _exists(engine: Engine, tag: str) -> bool:
    try:
        engine.api.inspect_image(tag)
    except ImageNotFound:
        return False
    return True


def _inspected(engine: Engine, tag: str) -> dict[str, Any]:
    try:
        return dict(engine.api.inspect_image(tag))
    except ImageNotFound as error:
        raise ImageFailed(f"The image {tag} is missing.") from error
