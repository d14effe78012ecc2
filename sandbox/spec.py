"""Describes a locked-down container once and for all; nothing outside this file sets a limit.

A spec is frozen. It says what is asked of the engine (`create_arguments`) and compares that with
what the engine made of it (`differences`), because an engine may accept an option and ignore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
# The part of a log that the engine keeps; our own quota (`training`) is smaller.
ENGINE_LOG = {"max-size": "50m", "max-file": "2"}
SERVER_PORT = 8080


class Kind(StrEnum):
    """What a container is for; it is also its label `mlops.kind`."""

    JOB = "job"
    BUILD = "build"
    SERVER = "server"


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


@dataclass(frozen=True)
class SandboxSpec:
    """Everything about one container. Made by `job_spec`, `build_spec` and `server_spec` only."""

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
            "OpenStdin": False,
            "HostConfig": self._host_config(),
        }

    def differences(self, inspect: Mapping[str, Any]) -> list[str]:
        """Where the engine's own account (`docker inspect`) departs from this spec.

        Returns one sentence a difference, an empty list when the container is what was asked for.
        """
        found: list[str] = []
        host_config = inspect.get("HostConfig", {})
        for name, wanted in self._host_config().items():
            got = host_config.get(name)
            if _plain(got) != _plain(wanted):
                found.append(f"HostConfig.{name}: asked for {wanted!r}, got {got!r}")
        if host_config.get("Binds"):
            found.append("HostConfig.Binds: asked for none")
        if inspect.get("Config", {}).get("User") != self.user:
            found.append(f"Config.User: asked for {self.user!r}")
        return found + self._mount_differences(inspect.get("Mounts", []))

    def _mount_differences(self, seen: Sequence[Mapping[str, Any]]) -> list[str]:
        wanted = {mount.target: mount.read_only for mount in self.mounts}
        got = {
            entry["Destination"]: not entry.get("RW", True)
            for entry in seen
            if entry.get("Type") != "tmpfs"
        }
        if wanted == got:
            return []
        return [f"Mounts (read-only by target): asked for {wanted!r}, got {got!r}"]

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
            "CapDrop": ["ALL"],
            "CapAdd": None,
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Privileged": False,
            "Devices": [],
            "PublishAllPorts": False,
            "PortBindings": {},
            "PidMode": "",
            "IpcMode": "private",
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
            "PidsLimit": self.limits.pids,
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
            ],
            "OomScoreAdj": 500,
            "LogConfig": {"Type": "json-file", "Config": ENGINE_LOG},
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
    deadline_seconds: int,
    grace_seconds: int,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A container that runs one script once, under the launcher, which keeps its deadline."""
    command = (
        "/env/bin/python",
        "-u",
        "/opt/mlops/launcher.py",
        "--deadline-seconds",
        str(deadline_seconds),
        "--grace-seconds",
        str(grace_seconds),
        f"/job/{script_name}",
    )
    mounts = (
        Mount(script_folder, "/job"),
        Mount(environment_folder, "/env"),
        Mount(platform_folder, "/platform"),
        Mount(data_folder, "/data"),
    )
    return SandboxSpec(
        kind=Kind.JOB,
        name=name,
        image=image,
        command=command,
        environment=_variables(variables),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        labels=_labels(Kind.JOB, labels),
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
    wheels_folder: Path | None = None,
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
        labels=_labels(Kind.BUILD, labels),
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
        labels=_labels(Kind.SERVER, labels),
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
