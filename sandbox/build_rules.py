"""What the operator chose for the builds of environments: where packages come from, and which.

Read from the variables of the process, once, and checked there: `make run` says at its start what
is wrong. Names and passwords in the addresses of indexes and proxies are for build containers only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidName, canonicalize_name

MASK = "****"
PYPI = "https://pypi.org/simple"
# These hold addresses with passwords: the web process gets none of them.
SECRET_SETTINGS = (
    "MLOPS_BUILD_UV_INDEX_URL",
    "MLOPS_BUILD_UV_DEFAULT_INDEX",
    "MLOPS_BUILD_EXTRA_INDEXES",
    "MLOPS_BUILD_HTTP_PROXY",
    "MLOPS_BUILD_HTTPS_PROXY",
)


class InvalidSetting(Exception):
    """A variable that cannot be used; the message names it and the remedy, and no value."""


@dataclass(frozen=True)
class BuildRules:
    """Sizes in MB; 0 is no bound.

    `denied` holds for what a requirement brings along, too; `allowed` only for what is asked for by
    name, and empty it allows all that is not denied.
    """

    index: str = ""
    extra_indexes: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)
    wheels: Path | None = None
    offline: bool = False
    allow_sources: bool = False
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    max_mb: int = 0

    def variables(self) -> dict[str, str]:
        """For a build container, in the words of uv."""
        indexes = {"UV_DEFAULT_INDEX": self.index, "UV_INDEX": " ".join(self.extra_indexes)}
        return {name: value for name, value in {**indexes, **self.proxies}.items() if value}

    def direct_indexes(self) -> list[str]:
        """Those that a build connects to itself."""
        return [index for index in self._indexes() if not self._proxy_of(index)]

    def proxies_used(self) -> list[str]:
        """Those that a build connects to, on the way to the other indexes."""
        used = [proxy for index in self._indexes() if (proxy := self._proxy_of(index))]
        return list(dict.fromkeys(used))

    def _indexes(self) -> tuple[str, ...]:
        return () if self.offline else (*self.extra_indexes, self.index or PYPI)

    def _proxy_of(self, index: str) -> str:
        """Empty when there is none between a build and this index."""
        parts = urlsplit(index)
        direct = [name.strip().lstrip("*.") for name in self.proxies.get("NO_PROXY", "").split(",")]
        host = parts.hostname or ""
        if any(name and f".{host}".endswith(f".{name}") for name in direct):
            return ""
        return self.proxies.get(f"{parts.scheme.upper()}_PROXY", "")

    def secrets(self) -> list[str]:
        """What must not be seen in a build's output, the longest first."""
        found: set[str] = set()
        for address in (self.index, *self.extra_indexes, *self.proxies.values()):
            userinfo = urlsplit(address).netloc.rpartition("@")[0]
            password = userinfo.partition(":")[2]
            found |= {userinfo, password, unquote(password)}
        return sorted(found - {""}, key=len, reverse=True)

    def masked(self, text: str) -> str:
        for secret in self.secrets():
            text = text.replace(secret, MASK)
        return text

    def refusal_of(self, name: str) -> str | None:
        """Why nobody may ask for this package, in a sentence; None when it may be asked for."""
        canonical = canonicalize_name(name)
        if canonical in self.denied:
            return f"The operator does not allow the package {canonical}."
        if self.allowed and canonical not in self.allowed:
            return f"The package {canonical} is not one of those that the operator allows."
        return None


def rules_from(variables: Mapping[str, str]) -> BuildRules:
    """Raises InvalidSetting."""
    default = variables.get("MLOPS_BUILD_UV_DEFAULT_INDEX", "")
    wheels = variables.get("MLOPS_BUILD_WHEELS", "")
    rules = BuildRules(
        index=_address("MLOPS_BUILD_UV_DEFAULT_INDEX", default)
        or _address("MLOPS_BUILD_UV_INDEX_URL", variables.get("MLOPS_BUILD_UV_INDEX_URL", "")),
        extra_indexes=tuple(
            _address("MLOPS_BUILD_EXTRA_INDEXES", part)
            for part in _parts(variables.get("MLOPS_BUILD_EXTRA_INDEXES", ""))
        ),
        proxies={
            name: variables[f"MLOPS_BUILD_{name}"]
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
            if variables.get(f"MLOPS_BUILD_{name}")
        },
        wheels=_folder("MLOPS_BUILD_WHEELS", wheels) if wheels else None,
        offline=variables.get("MLOPS_BUILD_OFFLINE", "") == "1",
        allow_sources=variables.get("MLOPS_ALLOW_SOURCE_BUILDS", "") == "1",
        allowed=_names("MLOPS_ALLOWED_PACKAGES", variables),
        denied=_names("MLOPS_DENIED_PACKAGES", variables),
        max_mb=_whole_number("MLOPS_ENVIRONMENT_MAX_MB", variables, default=10_000),
    )
    if rules.offline and rules.wheels is None:
        raise InvalidSetting("MLOPS_BUILD_OFFLINE=1 needs MLOPS_BUILD_WHEELS, a folder of wheels.")
    return rules


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", text) if part]


def _address(name: str, text: str) -> str:
    if text and urlsplit(text).scheme not in ("http", "https"):
        raise InvalidSetting(f"{name} must be addresses that begin with https:// or http://.")
    return text


def _folder(name: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise InvalidSetting(f"{name} must be the whole path of a folder that is there.")
    return path


def _names(name: str, variables: Mapping[str, str]) -> frozenset[str]:
    parts = _parts(variables.get(name, ""))
    try:
        return frozenset(canonicalize_name(part, validate=True) for part in parts)
    except InvalidName:
        raise InvalidSetting(
            f"{name} must be names of packages without versions, separated by commas."
        ) from None


def _whole_number(name: str, variables: Mapping[str, str], *, default: int) -> int:
    text = variables.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit()):
        raise InvalidSetting(f"{name} must be a whole number of MB; 0 is no bound.")
    return int(text)
