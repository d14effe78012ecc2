"""A locked-down container: what is asked of the engine, compared with what the engine made of it.

A spec is frozen. An engine may accept an option and ignore it, so that every field is read back.
`sandbox/spec.py` makes specs; nothing else does.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sandbox import seccomp

RUNNER_UID = 10001
BUILDER_UID = 10002
CPU_PERIOD_MICROSECONDS = 100_000
OPEN_FILES = 4096
TMP_MB = 64
# Before anything of the host's: whatever memory is short of, a container ends first.
OOM_SCORE = 500
# What the engine keeps of a container's output, twice: it begins a second file when one is full.
ENGINE_LOG_MB = 50
SCRIPT_PATH = "/job"
# The limits that an engine changes while a container runs.
CHANGEABLE = ("Memory", "MemorySwap", "CpuPeriod", "CpuQuota", "PidsLimit")
# Where a container asks for names that may ask nobody: the firewall refuses it at once.
NO_RESOLVER = "169.254.0.53"
# The engine's own resolver keeps the refusal to itself; 10 s for each name otherwise.
NO_WAIT_FOR_NAMES = ["timeout:1", "attempts:1"]


class Kind(StrEnum):
    """What a container is for; it is also its label `mlops.kind`."""

    JOB = "job"
    WAITING = "waiting"
    BUILD = "build"
    SERVER = "server"
    # One model, one file, no network; it ends by itself.
    BATCH = "batch"
    # Writes the host's firewall rules; the only kind that runs our own words and nobody else's.
    FIREWALL = "firewall"


# Rights are of a kind, never of one container: no caller and no setting can ask for one.
CAPABILITIES: Mapping[Kind, tuple[str, ...]] = {Kind.FIREWALL: ("NET_ADMIN",)}
# What would open a container, and what no spec asks for: whoever set it, it is not there.
NEVER_ASKED = (
    *("Binds", "VolumesFrom", "GroupAdd", "Sysctls", "DeviceCgroupRules", "OomKillDisable"),
    *("ExtraHosts", "Links", "CgroupParent"),
)
# What every engine hides of the kernel by itself, at the least.
HIDDEN_PATHS: Mapping[str, tuple[str, ...]] = {
    "MaskedPaths": ("/proc/kcore", "/proc/keys", "/proc/scsi", "/proc/timer_list", "/sys/firmware"),
    "ReadonlyPaths": ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
}
# Whose first process is the engine's own, which reaps; a script's is our launcher, which reaps too.
HAVE_AN_INIT = frozenset({Kind.BUILD, Kind.SERVER, Kind.BATCH})
USER_NAMESPACES: Mapping[Kind, str] = {Kind.FIREWALL: "host"}
HOST_NETWORK = "host"
# No interface but its own loopback: there is nothing that a firewall would have to hold.
NO_NETWORK = "none"
# What the engine itself runs containers with; it is the host's kernel that holds them.
RUNC = "runc"
# gVisor, by its usual name: a kernel of its own between the container and the host's.
RUNSC = "runsc"
# By the names they are usually registered under: the host's kernel is not what scripts talk to.
OWN_KERNEL = (RUNSC, "kata")
# gVisor's threads count as its container's processes: a hundred, and five for each of the script's
# (measured with 20221219 and ptrace). At the limit it ends, with exit code 2, where Linux refuses.
GVISOR_TASKS, GVISOR_TASKS_EACH = 128, 6
SHARED_NETWORKS = frozenset({"", "default", "bridge", HOST_NETWORK})
JOINED_NETWORK = "container:"
ROOT = frozenset({"", "0", "root", "0:0"})


@dataclass(frozen=True)
class Mount:
    """A host folder or file seen inside the container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Limits:
    """What a container may use. `memory_mb` holds for memory and swap together."""

    memory_mb: int
    cpus: float
    pids: int
    scratch_mb: int

    def __post_init__(self) -> None:
        """To an engine, 0 and less mean: without a bound. Raises ValueError."""
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, and is {value}.")


@dataclass(frozen=True)
class Compared:
    """A field of a container as it was asked for, and as the engine says that it is."""

    name: str
    wanted: Any
    got: Any

    @property
    def same(self) -> bool:
        return bool(_plain(self.wanted) == _plain(self.got))


@dataclass(frozen=True)
class SandboxSpec:
    """Everything about one container. Made by `sandbox/spec.py` only.

    `resolvers` are whom it asks for names; none: whom the engine's host asks. `takes_order`: its
    input is open, to one writer, once. `gpu_devices` are named as the engine names them. `runtime`
    is the engine's name of what runs it.
    """

    kind: Kind
    name: str
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    user: str
    mounts: tuple[Mount, ...]
    network: str
    limits: Limits
    labels: tuple[tuple[str, str], ...]
    engine_log_mb: int = ENGINE_LOG_MB
    resolvers: tuple[str, ...] = ()
    takes_order: bool = False
    gpu_devices: tuple[str, ...] = ()
    runtime: str = RUNC

    def __post_init__(self) -> None:
        """Raises ValueError for a network that is nobody's own: no rule of ours holds there."""
        shared = self.network in SHARED_NETWORKS or self.network.startswith(JOINED_NETWORK)
        if shared and self.kind is not Kind.FIREWALL:
            raise ValueError(f"A container cannot be on the network {self.network!r}.")
        if self.user in ROOT and self.kind is not Kind.FIREWALL:
            raise ValueError("A container cannot run as root.")
        if not self.runtime:
            raise ValueError("A container needs the name of its runtime.")

    @property
    def has_own_kernel(self) -> bool:
        """Whether a kernel that is not the host's stands between."""
        return self.runtime.startswith(OWN_KERNEL)

    @property
    def shape(self) -> str:
        """A hash of all that cannot be changed later, but for what makes each container itself.

        Two of one shape differ in their name, their labels, the folder of the script, and in limits
        that the engine can change.
        """
        body = replace(self, name="", labels=()).create_arguments()
        for name in CHANGEABLE:
            del body["HostConfig"][name]
        for mount in body["HostConfig"]["Mounts"]:
            if mount["Target"] == SCRIPT_PATH:
                del mount["Source"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]

    def with_limits(self, limits: Limits) -> "SandboxSpec":
        """The same container after its limits were changed."""
        return replace(self, limits=limits)

    def limits_update(self) -> dict[str, Any]:
        """What of the limits an engine changes while a container runs."""
        host_config = self._host_config()
        return {name: host_config[name] for name in CHANGEABLE}

    def create_arguments(self) -> dict[str, Any]:
        """The body of the Engine API's `POST /containers/create`."""
        return {
            "Image": self.image,
            "Cmd": list(self.command),
            "Entrypoint": [],
            "User": self.user,
            "Env": [f"{name}={value}" for name, value in self.environment],
            "WorkingDir": "/scratch",
            "Labels": dict(self.labels),
            "Tty": False,
            "OpenStdin": self.takes_order,
            "StdinOnce": self.takes_order,
            "HostConfig": self._host_config(),
        }

    def differences(self, inspect: Mapping[str, Any]) -> list[str]:
        """Where the engine's own account (`docker inspect`) departs from this spec.

        Returns one sentence a difference, an empty list when the container is what was asked for.
        """
        return [
            f"{field.name}: asked for {field.wanted!r}, got {field.got!r}"
            for field in self.comparison(inspect)
            if not field.same
        ]

    def comparison(self, inspect: Mapping[str, Any]) -> list[Compared]:
        """Every field that was asked for, beside what the engine made of it."""
        host_config, config = inspect.get("HostConfig", {}), inspect.get("Config", {})
        mounts = {
            entry["Destination"]: not entry.get("RW", True)
            for entry in inspect.get("Mounts", [])
            if entry.get("Type") != "tmpfs"
        }
        asked = {mount.target: mount.read_only for mount in self.mounts}
        return [
            *(
                _compared(name, wanted, host_config.get(name))
                for name, wanted in self._host_config().items()
            ),
            *(
                Compared(f"HostConfig.{name}", None, host_config.get(name) or None)
                for name in NEVER_ASKED
            ),
            *(
                _at_least(f"HostConfig.{name}", paths, host_config.get(name))
                for name, paths in HIDDEN_PATHS.items()
            ),
            Compared("Config.User", self.user, config.get("User")),
            *(
                Compared(f"Config.{name}", self.takes_order, bool(config.get(name)))
                for name in ("OpenStdin", "StdinOnce")
            ),
            Compared("Mounts (read-only by target)", asked, mounts),
        ]

    def _pids_limit(self) -> int:
        """What holds the script to its limit, as the host counts."""
        if not self.runtime.startswith(RUNSC):
            return self.limits.pids
        return GVISOR_TASKS + GVISOR_TASKS_EACH * self.limits.pids

    def _host_config(self) -> dict[str, Any]:
        return {
            **self._files(),
            **self._surroundings(),
            **self._rights(),
            **self._bounds(),
            **self._records(),
        }

    def _files(self) -> dict[str, Any]:
        """What it can read, and the two folders in memory that it can write to."""
        uid = _uid(self.user.partition(":")[0])
        return {
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": str(mount.source),
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                }
                for mount in self.mounts
            ],
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/tmp": f"rw,noexec,nosuid,nodev,size={TMP_MB}m,mode=1777",  # noqa: S108
                "/scratch": (
                    f"rw,exec,nosuid,nodev,size={self.limits.scratch_mb}m,mode=0700,"
                    f"uid={uid},gid={uid}"
                ),
            },
        }

    def _surroundings(self) -> dict[str, Any]:
        """Its network, whom it asks for names, and namespaces that it shares with nobody."""
        return {
            "NetworkMode": self.network,
            "PublishAllPorts": False,
            "PortBindings": {},
            "Dns": list(self.resolvers),
            "DnsOptions": NO_WAIT_FOR_NAMES if self.resolvers == (NO_RESOLVER,) else [],
            "PidMode": "",
            "IpcMode": "private",
            "UTSMode": "",
            "CgroupnsMode": "private",
            "UsernsMode": USER_NAMESPACES.get(self.kind, ""),
        }

    def _rights(self) -> dict[str, Any]:
        return {
            "Runtime": self.runtime,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES.get(self.kind, ())),
            "SecurityOpt": ["no-new-privileges", seccomp.OPTION],
            "Privileged": False,
            "Devices": [],
            "DeviceRequests": _device_requests(self.gpu_devices),
        }

    def _bounds(self) -> dict[str, Any]:
        memory = self.limits.memory_mb * 1024 * 1024
        return {
            "Memory": memory,
            "MemorySwap": memory,
            # Not NanoCpus: a container made with it refuses a later `update` of its share.
            "CpuPeriod": CPU_PERIOD_MICROSECONDS,
            "CpuQuota": int(self.limits.cpus * CPU_PERIOD_MICROSECONDS),
            "PidsLimit": self._pids_limit(),
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
            ],
            "OomScoreAdj": OOM_SCORE,
        }

    def _records(self) -> dict[str, Any]:
        """What is kept of its output, who reaps, and that nobody but us starts or removes it."""
        return {
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": f"{self.engine_log_mb}m", "max-file": "2"},
            },
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "Init": self.kind in HAVE_AN_INIT,
            "AutoRemove": False,
        }


def _at_least(name: str, wanted: tuple[str, ...], got: list[str] | None) -> Compared:
    return Compared(name, list(wanted), [path for path in wanted if path in (got or [])])


def _compared(name: str, wanted: Any, got: Any) -> Compared:
    """Profiles by their names, which are equal when every letter of them is."""
    if name == "SecurityOpt":
        wanted, got = seccomp.told_shortly(wanted), seccomp.told_shortly(got)
    return Compared(f"HostConfig.{name}", wanted, got)


def _device_requests(devices: tuple[str, ...]) -> list[dict[str, Any]]:
    """In the engine's words; a name such as `nvidia.com/gpu=0` is one of CDI's."""
    if not devices:
        return []
    driver = "cdi" if all("=" in name for name in devices) else ""
    request = {"Driver": driver, "Count": 0, "DeviceIDs": list(devices)}
    return [{**request, "Capabilities": [] if driver else [["gpu"]], "Options": {}}]


def _uid(user: str) -> int:
    named = {"runner": RUNNER_UID, "builder": BUILDER_UID}
    return named[user] if user in named else int(user)


def _plain(value: Any) -> Any:
    """Engines answer an empty list, mapping or string with null, and sort ulimits as they like."""
    if value in (None, [], {}, ""):
        return None
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted((_without_nulls(item) for item in value), key=repr)
    return value


def _without_nulls(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in sorted(item) if item[name] not in (None, False, {}, "")}
