"""Describes a locked-down container once and for all; nothing outside this file sets a limit.

A spec is frozen. It says what is asked of the engine (`create_arguments`) and compares that with
what the engine made of it (`differences`), because an engine may accept an option and ignore it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

RUNNER_UID = 10001
BUILDER_UID = 10002
# Where the build container looks for wheels of the operator's own.
WHEELS_INSIDE = "/wheels"
CPU_PERIOD_MICROSECONDS = 100_000
OPEN_FILES = 4096
TMP_MB = 64
# What the engine keeps of a container's output, twice: it begins a second file when one is full.
ENGINE_LOG_MB = 50
# Beside the output itself: the time and the marks around each line of the engine's record.
RECORD_LINE_BYTES = 128
SERVER_PORT = 8080
# One plugin of MLflow, which is no part of the environment (`image/job_path`).
JOB_PATH = "/opt/mlops/job_path"
SCRIPT_PATH = "/job"
# Without packages, without variables, no bytecode written: the launcher needs none of it, and a
# Python that skips them starts in half the time.
LAUNCHER_FLAGS = ("-S", "-E", "-B", "-u")
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
    # Writes the host's firewall rules; the only kind that runs our own words and nobody else's.
    FIREWALL = "firewall"


# What a probe is labelled with, whatever its sandbox: no job and no server of anybody's.
PROBE = "probe"
# Rights are of a kind, never of one container: no caller and no setting can ask for one.
CAPABILITIES: Mapping[Kind, tuple[str, ...]] = {Kind.FIREWALL: ("NET_ADMIN",)}
USER_NAMESPACES: Mapping[Kind, str] = {Kind.FIREWALL: "host"}
HOST_NETWORK = "host"
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


FIREWALL_LIMITS = Limits(memory_mb=64, cpus=1.0, pids=16, scratch_mb=1)


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
    """Everything about one container. Made by this file's functions only.

    `resolvers` are whom it asks for names; none: whom the engine's host asks. `takes_order`: its
    input is open, to one writer, once. `runtime` is the engine's name of what runs it.
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
        for name in ("Memory", "MemorySwap", "CpuPeriod", "CpuQuota"):
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
        wanted = ("Memory", "MemorySwap", "CpuPeriod", "CpuQuota")
        return {name: host_config[name] for name in wanted}

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
                Compared(f"HostConfig.{name}", wanted, host_config.get(name))
                for name, wanted in self._host_config().items()
            ),
            Compared("HostConfig.Binds", None, host_config.get("Binds")),
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
        memory = self.limits.memory_mb * 1024 * 1024
        uid = self.user.partition(":")[0]
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
            "NetworkMode": self.network,
            "Runtime": self.runtime,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES.get(self.kind, ())),
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Privileged": False,
            "Devices": [],
            "PublishAllPorts": False,
            "PortBindings": {},
            "Dns": list(self.resolvers),
            "DnsOptions": NO_WAIT_FOR_NAMES if self.resolvers == (NO_RESOLVER,) else [],
            "PidMode": "",
            "IpcMode": "private",
            "UTSMode": "",
            "CgroupnsMode": "private",
            "UsernsMode": USER_NAMESPACES.get(self.kind, ""),
            "Tmpfs": {
                "/tmp": f"rw,noexec,nosuid,nodev,size={TMP_MB}m,mode=1777",  # noqa: S108
                "/scratch": (
                    f"rw,exec,nosuid,nodev,size={self.limits.scratch_mb}m,mode=0700,"
                    f"uid={_uid(uid)},gid={_uid(uid)}"
                ),
            },
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
            "OomScoreAdj": 500,
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": f"{self.engine_log_mb}m", "max-file": "2"},
            },
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": False,
        }


def job_spec(
    *,
    name: str,
    image: str,
    script_folder: Path,
    script_name: str,
    environment_folder: Path,
    platform_folder: Path,
    data_folder: Path,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    runtime: str,
    resolvers: Sequence[str],
    deadline_seconds: int,
    grace_seconds: int,
    log_bytes: int,
    log_hard_bytes: int,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A container that runs one script once, under the launcher, which keeps its deadline.

    Of the output `log_bytes` are kept, half of them from its head and half from its tail; a script
    that prints more than `log_hard_bytes` is ended. `variables` hold no secret: what else the
    script needs comes over the container's input (`sandbox/order.py`), and nothing runs before.
    """
    command = (
        "/env/bin/python",
        *LAUNCHER_FLAGS,
        "/opt/mlops/run_job.py",
        "--deadline-seconds",
        str(deadline_seconds),
        "--grace-seconds",
        str(grace_seconds),
        "--log-bytes",
        str(log_bytes),
        "--log-hard-bytes",
        str(log_hard_bytes),
        f"{SCRIPT_PATH}/{script_name}",
    )
    mounts = _script_mounts(
        script=script_folder,
        environment=environment_folder,
        platform=platform_folder,
        data=data_folder,
    )
    return SandboxSpec(
        kind=Kind.JOB,
        name=name,
        image=image,
        command=command,
        environment=tuple(sorted(job_environment(variables).items())),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.JOB, labels),
        engine_log_mb=record_mb(log_bytes, seconds=deadline_seconds + grace_seconds),
        resolvers=tuple(resolvers),
        takes_order=True,
    )


def _script_mounts(
    *, script: Path, environment: Path, platform: Path, data: Path
) -> tuple[Mount, ...]:
    """All that a script sees of the host, whichever way its container came about."""
    return (
        Mount(script, SCRIPT_PATH),
        Mount(environment, "/env"),
        Mount(platform, "/platform"),
        Mount(data, "/data"),
    )


def job_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a script: those that are given, and the platform's own, which win."""
    return dict(_variables({**variables, "PYTHONPATH": JOB_PATH}))


def waiting_spec(
    *,
    name: str,
    image: str,
    script_folder: Path,
    environment_folder: Path,
    platform_folder: Path,
    data_folder: Path,
    variables: Mapping[str, str],
    network: str,
    resolvers: Sequence[str],
    limits: Limits,
    runtime: str,
    seconds_max: int,
    log_bytes: int,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A job's container before its job: `script_folder` is empty, `variables` hold no secret.

    All that locks a job down is the same. The order that it gets once names the script, which is
    in the folder by then, its variables, and its time, `seconds_max` at most.
    """
    mounts = _script_mounts(
        script=script_folder,
        environment=environment_folder,
        platform=platform_folder,
        data=data_folder,
    )
    return SandboxSpec(
        kind=Kind.WAITING,
        name=name,
        image=image,
        command=("/env/bin/python", "-u", "/opt/mlops/waiting_launcher.py"),
        environment=tuple(sorted(job_environment(variables).items())),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.WAITING, labels),
        engine_log_mb=record_mb(log_bytes, seconds=seconds_max),
        resolvers=tuple(resolvers),
        takes_order=True,
    )


def build_spec(
    *,
    name: str,
    image: str,
    command: Sequence[str],
    store_folder: Path,
    user: str,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    labels: Mapping[str, str],
    resolvers: Sequence[str] = (),
    wheels_folder: Path | None = None,
    runtime: str = RUNC,
) -> SandboxSpec:
    """A container that installs wheels into the environment store, its one writable folder.

    `wheels_folder` holds wheels of the operator's own, read-only.

    Cache and environments are one mount: across two mounts hard links fail and every file of an
    environment would be a copy.
    """
    return SandboxSpec(
        kind=Kind.BUILD,
        name=name,
        image=image,
        command=tuple(command),
        environment=_variables(variables),
        user=user,
        mounts=(
            Mount(store_folder, "/store", read_only=False),
            *([Mount(wheels_folder, WHEELS_INSIDE)] if wheels_folder else []),
        ),
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.BUILD, labels),
        resolvers=tuple(resolvers),
    )


def server_spec(
    *,
    name: str,
    image: str,
    model_folder: Path,
    environment_folder: Path,
    platform_folder: Path,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    runtime: str,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A container that loads one model and answers predictions on port 8080 of its own address."""
    command = (
        "/env/bin/python",
        "-u",
        "/opt/mlops/model_server.py",
        "--model",
        "/model",
        "--port",
        str(SERVER_PORT),
    )
    mounts = (
        Mount(model_folder, "/model"),
        Mount(environment_folder, "/env"),
        Mount(platform_folder, "/platform"),
    )
    return SandboxSpec(
        kind=Kind.SERVER,
        name=name,
        image=image,
        command=command,
        environment=_variables(variables),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.SERVER, labels),
        resolvers=(NO_RESOLVER,),
    )


def record_mb(log_bytes: int, *, seconds: int) -> int:
    """So much of a job's output in one file of the engine that none of it is ever dropped.

    The launcher sends 7/4 of the quota (with its samples, and twice a tail) in base64, at most 50
    lines a second.
    """
    record = log_bytes * 7 // 3 + seconds * 50 * RECORD_LINE_BYTES
    return max(ENGINE_LOG_MB, math.ceil(record / 1024**2))


def firewall_spec(
    *, name: str, image: str, command: Sequence[str], rules: str, labels: Mapping[str, str]
) -> SandboxSpec:
    """A container that writes `$RULES` into the host's firewall and ends.

    Root, since that right is nobody else's, but with this one right and nothing mounted.
    """
    return SandboxSpec(
        kind=Kind.FIREWALL,
        name=name,
        image=image,
        command=tuple(command),
        environment=_variables({"RULES": rules}),
        user="0:0",
        mounts=(),
        network=HOST_NETWORK,
        limits=FIREWALL_LIMITS,
        labels=_labels(Kind.FIREWALL, labels),
    )


def probe_spec(subject: SandboxSpec, *, command: Sequence[str]) -> SandboxSpec:
    """The very sandbox of a job or a server, in which our probe runs in place of its own work."""
    labels = {**dict(subject.labels), "mlops.kind": PROBE}
    return replace(
        subject,
        command=tuple(command),
        labels=tuple(sorted(labels.items())),
        takes_order=False,
    )


def _variables(variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The given ones win over nothing that the platform needs: HOME and PYTHON* are ours."""
    ours = {"HOME": "/scratch", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return tuple(sorted({**variables, **ours}.items()))


def _labels(kind: Kind, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**labels, "mlops.kind": str(kind)}.items()))


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
