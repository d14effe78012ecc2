"""What a set of requirements resolved to: every package with its version and its wheels' hashes.

Read from what uv writes, and written as a requirements file for pip and as a `pylock.toml`
(PEP 751). Used inside the build container and outside, so standard library only. An address of an
index may hold a name and a password: neither they nor a query get into a lock.
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

CREATED_BY = "mlops"
HEADER = 'lock-version = "1.0"'


class NoHash(Exception):
    """The index gives no SHA-256 of a package's files; the message is the package's name."""


@dataclass(frozen=True)
class Wheel:
    """One file that fits this Python. `size` is 0 where the index does not tell it."""

    name: str
    url: str
    sha256: str
    size: int = 0


@dataclass(frozen=True)
class Package:
    """One pin. `address`: it was asked for by an address instead of an index."""

    name: str
    version: str
    wheels: tuple[Wheel, ...]
    address: str = ""

    @property
    def pin(self) -> str:
        return f"{self.name} @ {self.address}" if self.address else f"{self.name}=={self.version}"

    @property
    def download_bytes(self) -> int:
        """At least so much is downloaded: whichever of the wheels it is."""
        return min((wheel.size for wheel in self.wheels), default=0)


@dataclass(frozen=True)
class Lock:
    """All packages, by name. `requires_python` is what they were resolved for."""

    packages: tuple[Package, ...]
    requires_python: str = ""

    def requirements(self) -> str:
        """What `pip install --require-hashes -r` takes."""
        return "".join(_requirement(package) for package in self.packages)

    def pylock(self) -> str:
        """What PEP 751 calls a lock file."""
        lines = [HEADER, f"created-by = {_quoted(CREATED_BY)}"]
        if self.requires_python:
            lines.append(f"requires-python = {_quoted(self.requires_python)}")
        return "\n".join([*lines, *(_table(package) for package in self.packages), ""])

    def key(self, base: str) -> str:
        """The name of the environment that this lock makes on this base image."""
        return hashlib.sha256(f"{base}\n{self.requirements()}".encode()).hexdigest()[:20]


def read(text: str) -> Lock:
    """From the text of a `pylock.toml`. Raises NoHash."""
    document = tomllib.loads(text)
    found = [_package(entry) for entry in document.get("packages", [])]
    packages = tuple(sorted(found, key=lambda package: package.name))
    return Lock(packages, str(document.get("requires-python", "")))


def pins_in(requirements: str) -> list[str]:
    """The lines of a requirements file without their hashes: one pin each."""
    lines = (line.strip() for line in requirements.splitlines())
    return [line.removesuffix("\\").strip() for line in lines if line and line[0] not in "-#"]


def name_and_version(pin: str) -> tuple[str, str]:
    """Of one pin; the version of a package that was asked for by an address is `@ address`."""
    name, _, version = pin.partition("==")
    if version:
        return name.strip(), version.strip()
    name, _, address = pin.partition(" @ ")
    return name.strip(), f"@ {address}" if address else ""


def has_hashes(requirements: str) -> bool:
    """Whether every pin of a requirements file has one: those of long ago have none."""
    return 0 < len(pins_in(requirements)) <= requirements.count("--hash=sha256:")


def _package(entry: dict[str, Any]) -> Package:
    name, version = str(entry["name"]), str(entry.get("version", ""))
    archive = entry.get("archive")
    files = [archive] if archive else entry.get("wheels", [])
    wheels = tuple(sorted((_wheel(name, file) for file in files), key=lambda wheel: wheel.sha256))
    if not wheels:
        raise NoHash(name)
    return Package(name, version, wheels, address=wheels[0].url if archive else "")


def _wheel(package: str, file: dict[str, Any]) -> Wheel:
    sha256 = file.get("hashes", {}).get("sha256", "")
    if not sha256:
        raise NoHash(package)
    address = urlsplit(str(file.get("url", "") or file.get("path", "")))
    name = unquote(address.path.rpartition("/")[2])
    return Wheel(name, _public(file), str(sha256), int(file.get("size", 0)))


def _public(file: dict[str, Any]) -> str:
    """Without name, password, query and fragment; empty for a file of the operator's own folder."""
    address = urlsplit(str(file.get("url", "")))
    if address.scheme not in ("http", "https"):
        return ""
    host = address.netloc.rpartition("@")[2]
    return urlunsplit((address.scheme, host, address.path, "", ""))


def _requirement(package: Package) -> str:
    hashes = [f"    --hash=sha256:{wheel.sha256}" for wheel in package.wheels]
    return " \\\n".join([package.pin, *dict.fromkeys(hashes)]) + "\n"


def _table(package: Package) -> str:
    lines = ["", "[[packages]]", f"name = {_quoted(package.name)}"]
    if package.version:
        lines.append(f"version = {_quoted(package.version)}")
    if package.address:
        lines.append(f"archive = {_file(package.wheels[0], named=False)}")
        return "\n".join(lines)
    lines.append("wheels = [")
    lines += [f"    {_file(wheel, named=True)}," for wheel in package.wheels]
    return "\n".join([*lines, "]"])


def _file(wheel: Wheel, *, named: bool) -> str:
    fields = [f"name = {_quoted(wheel.name)}"] if named else []
    fields.append(f"url = {_quoted(wheel.url)}" if wheel.url else f"path = {_quoted(wheel.name)}")
    if wheel.size:
        fields.append(f"size = {wheel.size}")
    fields.append(f"hashes = {{ sha256 = {_quoted(wheel.sha256)} }}")
    return f"{{ {', '.join(fields)} }}"


def _quoted(text: str) -> str:
    """JSON's strings are TOML's basic strings too."""
    return json.dumps(text)
