"""What the Docker Engine says of containers and of its host, as values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox import seccomp

MIB = 1024 * 1024
NEVER = "0001-01-01"
# What an inspection calls running.
ALIVE = frozenset({"running", "paused", "restarting"})
# Of its kinds of device, the vendors' own names for a GPU.
CDI_GPU = re.compile(r"[a-z0-9.-]+/gpu=.+")
HARDENING_FIELDS = (
    "CapDrop",
    "CapAdd",
    "SecurityOpt",
    "ReadonlyRootfs",
    "Privileged",
    "NetworkMode",
    "Dns",
    "IpcMode",
    "PidMode",
    "UTSMode",
    "CgroupnsMode",
    "UsernsMode",
    "Memory",
    "MemorySwap",
    "CpuPeriod",
    "CpuQuota",
    "PidsLimit",
    "Tmpfs",
    "Ulimits",
    "OomScoreAdj",
    "Devices",
    "DeviceRequests",
    "Runtime",
    "RestartPolicy",
    "Init",
    "LogConfig",
)


@dataclass(frozen=True)
class ContainerState:
    """What the engine says of a container now.

    `oom_killed`: the kernel ended a process of it for its memory, and the engine was told so.
    """

    id: str
    name: str
    status: str
    running: bool
    exit_code: int | None
    oom_killed: bool
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    labels: Mapping[str, str]
    ip_address: str | None


@dataclass(frozen=True)
class FoundContainer:
    """What the engine says of a container when it lists them: one call, however many there are."""

    id: str
    name: str
    running: bool
    created_at: datetime
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Usage:
    """What a container uses: memory without the file cache that the kernel may take back."""

    memory_bytes: int
    cpu_seconds: float


@dataclass(frozen=True)
class Capacity:
    """Memory and processors of an engine's host, and its GPUs by the engine's names for them."""

    memory_mb: int
    cpus: int
    gpus: tuple[str, ...] = ()


def state_in(inspect: Mapping[str, Any]) -> ContainerState:
    state = inspect["State"]
    ended = state["Status"] in ("exited", "dead")
    networks = inspect["NetworkSettings"].get("Networks") or {}
    addresses = [entry["IPAddress"] for entry in networks.values() if entry.get("IPAddress")]
    return ContainerState(
        id=inspect["Id"],
        name=inspect["Name"].lstrip("/"),
        status=state["Status"],
        running=bool(state["Running"]),
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        created_at=_moment(inspect.get("Created")),
        started_at=_moment(state.get("StartedAt")),
        finished_at=_moment(state.get("FinishedAt")),
        labels=inspect["Config"].get("Labels") or {},
        ip_address=addresses[0] if addresses else None,
    )


def found_in(entry: Mapping[str, Any]) -> FoundContainer:
    return FoundContainer(
        id=entry["Id"],
        name=entry["Names"][0].lstrip("/") if entry["Names"] else "",
        running=entry["State"] in ALIVE,
        created_at=datetime.fromtimestamp(entry["Created"], UTC),
        labels=entry.get("Labels") or {},
    )


def usage_in(stats: Mapping[str, Any]) -> Usage | None:
    """An ended container answers with empty parts. Cache: `inactive_file`, as `docker stats`."""
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    nanoseconds = stats["cpu_stats"]["cpu_usage"]["total_usage"]
    return Usage(memory_bytes=max(0, memory["usage"] - cache), cpu_seconds=nanoseconds / 1e9)


def capacity_in(info: Mapping[str, Any]) -> Capacity:
    return Capacity(
        memory_mb=int(info["MemTotal"]) // MIB, cpus=int(info["NCPU"]), gpus=gpus_in(info)
    )


def gpus_in(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that an engine names by itself: found by CDI (from Docker 28.3 on), or told to it as
    `node-generic-resources`. CDI's `all` is every one of them once more."""
    found = [entry.get("ID", "") for entry in info.get("DiscoveredDevices") or []]
    named = [name for name in found if CDI_GPU.fullmatch(name) and not name.endswith("=all")]
    resources = [entry.get("NamedResourceSpec") for entry in info.get("GenericResources") or []]
    told = [entry["Value"] for entry in resources if entry and "GPU" in entry["Kind"].upper()]
    return tuple(named or told)


def hardening_in(inspect: Mapping[str, Any]) -> dict[str, Any]:
    """What locks the container down, as operators are shown it."""
    fields = {name: inspect["HostConfig"].get(name) for name in HARDENING_FIELDS}
    fields["SecurityOpt"] = seccomp.told_shortly(fields["SecurityOpt"])
    fields["User"] = inspect["Config"]["User"]
    # What the engine adds by itself where its host has it.
    fields["AppArmorProfile"] = inspect.get("AppArmorProfile", "")
    fields["Mounts"] = [
        {"target": mount["Destination"], "read_only": not mount["RW"]}
        for mount in inspect["Mounts"]
        if mount["Type"] == "bind"
    ]
    return fields


def _moment(text: str | None) -> datetime | None:
    """An engine time (`2026-01-31T10:00:00.123456789Z`); the year 1 stands for "never"."""
    if not text or text.startswith(NEVER):
        return None
    seconds, _, fraction = text.rstrip("Z").partition(".")
    microseconds = (fraction + "000000")[:6]
    return datetime.fromisoformat(f"{seconds}.{microseconds}").replace(tzinfo=UTC)
