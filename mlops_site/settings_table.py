"""Every setting of `docs/settings.md` with its value in force; what is secret stays out of it.

The document has the names, the defaults and the words, `mlops_site/settings.py` what was read. A
value that this process was not given, such as the address of Redis in the web process, is told by
the supervisor (`told_by_this_process`), masked before it is written anywhere.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from sandbox.build_rules import SECRET_SETTINGS

DOCUMENT = "docs/settings.md"
ROW = re.compile(r"^\| (?P<names>`[A-Z].*?) \|(?P<default>.*?)\| (?P<what>.*) \|$")
NAME = re.compile(r"`([A-Z][A-Z0-9_]*)`")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
EMPHASIS = re.compile(r"\*{1,2}([^*]+)\*{1,2}")
HIDDEN = "hidden"
# Nothing of these is shown but whether there is one.
SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|CREDENTIAL)|_KEY$")
# Of addresses without the rest: a path may hold a token too.
ADDRESSES = frozenset({*SECRET_SETTINGS, "DATABASE_URL", "REDIS_URL", "MLOPS_JOB_PROXY"})
USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*@")
MADE = "*made*"
CODE = re.compile(r"`([^`]+)`")
# Looked up at the start where nobody gave it, and handed on.
FOUND = frozenset({"SANDBOX_RUNTIME"})
# Given to worker and supervisor alone.
NOT_OF_WEB = frozenset({*SECRET_SETTINGS, "REDIS_URL", "DOCKER_HOST", "SANDBOX_RUNTIME"})
# Of which group a setting is, by how its name begins; the first that fits.
GROUPS: Mapping[str, Sequence[str]] = {
    "Installation": ("MLOPS_HOME", "MLOPS_INSTALLATION", "MLOPS_DEBUG", "MLOPS_LOG_LEVEL"),
    "Web": ("PORT", "MLOPS_BIND", "MLOPS_ALLOWED_HOSTS", "MLOPS_SECRET_KEY", "MLOPS_TRUSTED"),
    "Database and queue": ("DATABASE_URL", "REDIS_URL", "MLOPS_QUEUE_WORKERS"),
    "MLflow and Feast": ("MLFLOW_", "MLOPS_MLFLOW", "MLOPS_FEAST", "MLOPS_FEATURES"),
    "What jobs and servers may reach": (
        *("MLOPS_JOB_NETWORK", "MLOPS_JOB_ALLOWED", "MLOPS_JOB_RESOLVERS", "MLOPS_JOB_PROXY"),
        *("MLOPS_JOBS_", "MLOPS_OFFLINE_", "MLOPS_SERVERS_NETWORK", "MLOPS_BUILDS_"),
    ),
    "Containers": (
        *("DOCKER_HOST", "SANDBOX_RUNTIME", "MLOPS_RUNNER", "MLOPS_BASE", "MLOPS_PYTHON"),
        *("MLOPS_GPU", "SSL_CERT_FILE"),
    ),
    "Environments and builds": (
        *("MLOPS_BUILD_", "MLOPS_ENVIRONMENT", "MLOPS_PRELOAD", "MLOPS_ALLOW_SOURCE"),
        *("MLOPS_ALLOW_URL", "MLOPS_ALLOWED_PACKAGES", "MLOPS_DENIED_PACKAGES"),
    ),
    "Retention": ("MLOPS_KEEP_",),
    "Batch predictions": ("MLOPS_BATCH", "MLOPS_MAX_BATCHES"),
    "Model servers and predictions": (
        *("MLOPS_SERVER", "MLOPS_MAX_MODEL_SERVERS", "MLOPS_INFERENCE", "MLOPS_FAST_LANE"),
        "MLOPS_REQUEST_LOG",
    ),
    "One job": ("MLOPS_JOB_", "MLOPS_SCRIPT"),
    "All jobs together": (
        *("MLOPS_MAX_CONCURRENT", "MLOPS_WAITING", "MLOPS_RESERVED", "MLOPS_MEMORY_FREE"),
        *("MLOPS_DISK_FREE", "MLOPS_QUEUE_JOBS", "MLOPS_USER_JOBS", "MLOPS_EXPERIMENT_JOBS"),
        *("MLOPS_MAX_FOLLOWERS", "MLOPS_FOLLOW"),
    ),
}
OTHER = "Other"


@dataclass(frozen=True)
class Line:
    """One row of the document: the name of a setting, its default there, and what it is."""

    name: str
    default: str
    what: str


@dataclass(frozen=True)
class Setting:
    """A setting in force. `value` is what may be shown of it; `source` says who gave it."""

    name: str
    value: str
    default: str
    source: str
    what: str
    is_secret: bool

    @property
    def is_changed(self) -> bool:
        """Whether somebody wanted it to be another than it usually is."""
        return self.source.startswith("environment")


def settings_in_force(told: Mapping[str, str] | None) -> dict[str, list[Setting]]:
    """By group; `told` is what the supervisor told of what it was given, None before it did."""
    groups: dict[str, list[Setting]] = {name: [] for name in (*GROUPS, OTHER)}
    for line in documented():
        groups[group_of(line.name)].append(_setting(line, told))
    return {name: found for name, found in groups.items() if found}


def told_by_this_process() -> dict[str, str]:
    """What was given to this process, as it may be shown."""
    names = [line.name for line in documented()]
    return {name: shown(name, os.environ[name]) for name in names if name in os.environ}


def group_of(name: str) -> str:
    fits = (group for group, begins in GROUPS.items() if name.startswith(tuple(begins)))
    return next(fits, OTHER)


@cache
def documented() -> tuple[Line, ...]:
    """The table, in its order; none where there are no documents beside the code."""
    path = Path(settings.BASE_DIR) / DOCUMENT
    text = path.read_text() if path.is_file() else ""
    found = (ROW.match(line) for line in text.splitlines())
    return tuple(line for row in found if row for line in _lines(row))


def _lines(row: "re.Match[str]") -> list[Line]:
    """Some rows are of several settings, with as many defaults or with one for all."""
    names, told = NAME.findall(row["names"]), row["default"].strip()
    parts = told.split(", ") if told.count(", ") == len(names) - 1 else [told] * len(names)
    what = _plain(row["what"])
    return [Line(name, part, what) for name, part in zip(names, parts, strict=True)]


def shown(name: str, value: str) -> str:
    """What of a value may be seen: of a secret nothing, of an address no user, path or query."""
    if not value:
        return ""
    if SECRET_NAME.search(name):
        return HIDDEN
    if name in ADDRESSES:
        return ", ".join(_host_of(part) for part in re.split(r"[,\s]+", value) if part)
    return USER_IN_ADDRESS.sub("…@", value)


def _host_of(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    if not parts.scheme or "://" not in address:
        return HIDDEN
    user = "…@" if "@" in parts.netloc else ""
    rest = "/…" if len(parts.path) > 1 or parts.query else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{rest}"


def _setting(line: Line, told: Mapping[str, str] | None) -> Setting:
    usual = settings.SETTINGS_READ.get(line.name)
    given = os.environ.get(line.name)
    known = given if given is not None else usual
    value = shown(line.name, known) if known else ""
    source = _source(line, given=given, usual=usual)
    if given is None and told is None and line.name in NOT_OF_WEB:
        value, source = "", "unknown: the supervisor has not told yet"
    elif given is None and told is not None and line.name in told:
        found = "found at the start" if line.name in FOUND else "environment"
        value, source = told[line.name], f"{found}, of worker and supervisor"
    return Setting(
        name=line.name,
        value=value,
        default=_plain(line.default),
        source=source,
        what=line.what,
        is_secret=bool(SECRET_NAME.search(line.name)),
    )


def _source(line: Line, *, given: str | None, usual: str | None) -> str:
    if given is None or given == usual or given in CODE.findall(line.default):
        return "default"
    return "made at the start" if MADE in line.default else "environment"


def _plain(markdown: str) -> str:
    """Without what Markdown adds; in code a star is a star."""
    parts = LINK.sub(r"\1", markdown).split("`")
    parts[::2] = [EMPHASIS.sub(r"\1", words) for words in parts[::2]]
    return "".join(parts).strip()
