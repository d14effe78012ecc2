"""The only place that talks to Docker; errors of its SDK never leave it."""

import contextlib
import json
import math
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env
from urllib3.exceptions import HTTPError

from sandbox import seccomp
from sandbox.container import SandboxSpec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

CALL_SECONDS = 60
# How often a container that does not answer is looked at.
LOOK_SECONDS = 1.0
READ_BYTES = 65536
MIB = 1024 * 1024
NEVER = "0001-01-01"
# Of its kinds of device, the vendors' own names for a GPU.
CDI_GPU = re.compile(r"[a-z0-9.-]+/gpu=.+")
BROKEN_OFF = (HTTPError, OSError, struct.error, json.JSONDecodeError)
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


class EngineUnavailable(Exception):
    """The Docker Engine does not answer; the same call may succeed later."""


class EngineError(Exception):
    """The Docker Engine answered with an error."""


class SandboxMismatch(Exception):
    """The engine made a container that is not what the spec asks for; it was removed unstarted."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = differences


# What an inspection calls running.
ALIVE = frozenset({"running", "paused", "restarting"})
# By signal 9: the container's first process, or below it the launcher's script (`launcher.py`).
KILLED = frozenset({128 + signal.SIGKILL, 160 + signal.SIGKILL})


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


def _mapped(call: Callable[P, R]) -> Callable[P, R]:
    """Turns the SDK's and the transport's errors into ours."""

    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except APIError as error:
            raise EngineError(str(error.explanation or error)) from error
        except (DockerException, requests.RequestException) as error:
            raise EngineUnavailable(str(error)) from error

    return guarded


class Engine:
    """One Docker Engine, through the few verbs that this platform needs."""

    def __init__(self, api: docker.APIClient) -> None:
        self._api = api

    @classmethod
    def connect(cls) -> "Engine":
        """The engine of `DOCKER_HOST`, or of the usual socket.

        Raises EngineUnavailable when nothing answers there.
        """
        return cls(_connect())

    @property
    def api(self) -> docker.APIClient:
        """The SDK's client, for the other modules of this room only."""
        return self._api

    def ping(self) -> bool:
        try:
            return bool(self._api.ping())
        except (DockerException, requests.RequestException):
            return False

    @_mapped
    def version(self) -> str:
        return str(self._api.version()["Version"])

    @_mapped
    def create(self, spec: SandboxSpec) -> str:
        """Makes the container, not started, and returns its id.

        Raises SandboxMismatch, and leaves nothing behind, when the engine made something else.
        """
        made = self._api.create_container_from_config(spec.create_arguments(), spec.name)
        container_id = str(made["Id"])
        differences = spec.differences(self._api.inspect_container(container_id))
        if differences:
            self.remove(container_id)
            raise SandboxMismatch(differences)
        return container_id

    @_mapped
    def start(self, container_id: str) -> None:
        self._api.start(container_id)

    @_mapped
    def state(self, container: str) -> ContainerState | None:
        """By id or name; None when there is no such container."""
        try:
            state = _state(self._api.inspect_container(container))
        except NotFound:
            return None
        if state.exit_code in KILLED and not state.oom_killed:
            return replace(state, oom_killed=self._told_of_no_memory(state))
        return state

    def _told_of_no_memory(self, state: ContainerState) -> bool:
        """Whether the engine spoke of memory after it had written down the end without it.

        The word of the kernel and the end reach it by two ways; where the container's first process
        is what is killed, as under gVisor, the end may be first, and the flag is then never set.
        """
        if state.started_at is None:
            return False
        # Whole seconds, which is what the SDK's types know, would leave out the one that counts.
        told = self._api.events(  # type: ignore[call-overload]
            since=f"{state.started_at.timestamp():.6f}",
            until=f"{time.time():.6f}",
            filters={"container": state.id, "event": "oom"},
            decode=True,
        )
        return any(True for _ in told)

    @_mapped
    def find(self, labels: Mapping[str, str]) -> list[FoundContainer]:
        """Every container, running or not, that carries all of these labels."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        listed = self._api.containers(all=True, filters={"label": wanted})
        return [_found(entry) for entry in listed]

    @_mapped
    def mounted_folders(self, labels: Mapping[str, str]) -> set[Path]:
        """Which folders of the host the containers with these labels have, running or not."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        listed = self._api.containers(all=True, filters={"label": wanted})
        mounts = (mount for entry in listed for mount in entry.get("Mounts", []))
        return {Path(mount["Source"]) for mount in mounts if mount.get("Source")}

    @_mapped
    def follow_logs(self, container_id: str) -> Iterator[bytes]:
        """Output and errors in the order they were recorded, from the first byte to the end."""
        stream = self._api.logs(container_id, stdout=True, stderr=True, stream=True, follow=True)
        return _guarded_stream(stream)

    @_mapped
    def recorded_logs(self, container_id: str) -> Iterator[bytes]:
        """What the engine has of the output now, from the first byte that it kept."""
        stream = self._api.logs(container_id, stdout=True, stderr=True, stream=True, follow=False)
        return _guarded_stream(stream)

    @_mapped
    def printed(self, container_id: str) -> Iterator[bytes]:
        """What the engine has of the output, without the errors, from the first byte that it kept.

        Raises EngineError when there is no such container.
        """
        stream = self._api.logs(container_id, stdout=True, stderr=False, stream=True, follow=False)
        return _guarded_stream(stream)

    @_mapped
    def last_printed(self, container_id: str, *, lines: int) -> bytes:
        """What is output among the last so many lines; each has 16 KiB at most."""
        return bytes(self._api.logs(container_id, stdout=True, stderr=False, tail=lines))

    @_mapped
    def last_errors(self, container_id: str, *, lines: int) -> bytes:
        """What is errors among the last so many lines; each has 16 KiB at most."""
        return bytes(self._api.logs(container_id, stdout=False, stderr=True, tail=lines))

    @_mapped
    def usage(self, container_id: str) -> Usage | None:
        """What the container uses now; None when it does not run."""
        try:
            stats = self._api.stats(container_id, stream=False, one_shot=True)
        except NotFound:
            return None
        return _usage(stats)

    @_mapped
    def capacity(self) -> Capacity:
        """What the engine's host has in all."""
        info = self._api.info()
        return Capacity(
            memory_mb=int(info["MemTotal"]) // MIB, cpus=int(info["NCPU"]), gpus=_gpus(info)
        )

    @_mapped
    def runtimes(self) -> tuple[str, ...]:
        """By what names the engine knows what it can run containers with."""
        return tuple(sorted(self._api.info().get("Runtimes") or {}))

    @_mapped
    def default_runtime(self) -> str:
        """Whom the engine takes when nobody asks for one."""
        return str(self._api.info()["DefaultRuntime"])

    @_mapped
    def events(self, labels: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """Starts, ends and removals of containers with these labels, as they happen."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        filters = {"type": "container", "label": wanted, "event": ["die", "destroy", "oom"]}
        return _guarded_stream(self._api.events(decode=True, filters=filters))

    @_mapped
    def read_logs(self, container_id: str) -> bytes:
        """What the engine has of a container's output and errors now."""
        return bytes(self._api.logs(container_id, stdout=True, stderr=True))

    @_mapped
    def wait(self, container_id: str, *, timeout_seconds: float) -> int:
        """The exit code, once the container has ended.

        Raises EngineUnavailable when that takes longer than `timeout_seconds`.
        """
        seconds = math.ceil(timeout_seconds)
        return int(self._api.wait(container_id, timeout=seconds)["StatusCode"])

    @_mapped
    def stop(self, container_id: str, *, grace_seconds: int) -> None:
        """SIGTERM, and SIGKILL when the grace is over. A missing container is stopped already."""
        with contextlib.suppress(NotFound):
            self._api.stop(container_id, timeout=grace_seconds)

    @_mapped
    def kill(self, container_id: str) -> None:
        try:
            self._api.kill(container_id)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: it is not running any more
                raise

    @_mapped
    def terminate(self, container_id: str) -> None:
        """SIGTERM to the container's first process; it may take its time."""
        try:
            self._api.kill(container_id, signal="SIGTERM")
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: it is not running any more
                raise

    @_mapped
    def remove(self, container_id: str) -> None:
        """Removes the container, running or not. A missing one is removed already."""
        try:
            self._api.remove_container(container_id, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: somebody else is removing it
                raise

    @_mapped
    def change_limits(self, container_id: str, spec: SandboxSpec) -> None:
        """What can be changed of the limits of a container that runs, to what the spec says.

        By the engine's own path: the SDK knows no way to change `PidsLimit`.
        """
        path = f"{self._api.base_url}/v{self._api.api_version}/containers/{container_id}/update"
        answer = self._api.post(path, json=spec.limits_update(), timeout=CALL_SECONDS)
        if not answer.ok:
            raise EngineError(answer.text.strip())

    @_mapped
    def hand_in(
        self, container_id: str, data: bytes, *, answer: bytes, timeout_seconds: float
    ) -> bytes | None:
        """Writes to a container's input, once, and closes it; returns what follows `answer`.

        That is the rest of the first line of its output that begins with `answer`; None when the
        container ends without such a line. Raises EngineUnavailable when neither comes in time.
        """
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        wrapped = self._api.attach_socket(container_id, params=wanted)
        attached: socket.socket = getattr(wrapped, "_sock", wrapped)
        try:
            attached.settimeout(LOOK_SECONDS)
            attached.sendall(data)
            attached.shutdown(socket.SHUT_WR)
            return self._answer_of(container_id, attached, answer, seconds=timeout_seconds)
        except OSError as error:
            raise EngineUnavailable(str(error)) from error
        finally:
            wrapped.close()
            attached.close()

    def _answer_of(
        self, container_id: str, attached: socket.socket, answer: bytes, *, seconds: float
    ) -> bytes | None:
        """An engine leaves whoever attaches to a container that has ended just now without a word:
        then its record tells."""
        heard, until = b"", time.monotonic() + seconds
        while True:
            with contextlib.suppress(TimeoutError):
                data = attached.recv(READ_BYTES)
                heard += data
                found = _line_after(heard, answer)
                if found is not None or not data:
                    return found
                continue
            state = self.state(container_id)
            if state is None or not state.running:
                return None if state is None else _line_after(self.read_logs(state.id), answer)
            if time.monotonic() > until:
                raise TimeoutError(f"No answer within {seconds} s.")

    @_mapped
    def checked_readback(self, container_id: str, spec: SandboxSpec) -> dict[str, Any]:
        """`readback` of a container that is what the spec asks for; raises SandboxMismatch."""
        inspect = self._api.inspect_container(container_id)
        differences = spec.differences(inspect)
        if differences:
            raise SandboxMismatch(differences)
        return _hardening(inspect)

    @_mapped
    def image_id(self, tag: str) -> str:
        return str(self._api.inspect_image(tag)["Id"])

    @_mapped
    def readback(self, container_id: str) -> dict[str, Any]:
        """The hardening fields as the engine reports them, to be shown to operators."""
        return _hardening(self._api.inspect_container(container_id))


def _hardening(inspect: Mapping[str, Any]) -> dict[str, Any]:
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


def _line_after(heard: bytes, answer: bytes) -> bytes | None:
    """None as long as that line is not whole. The stream's own marks, eight bytes before each
    piece, stand before a line, never in one."""
    _, found, after = heard.partition(answer)
    line, newline, _ = after.partition(b"\n")
    return line if found and newline else None


@_mapped
def _connect() -> docker.APIClient:
    api = docker.APIClient(**kwargs_from_env(), version="auto", timeout=CALL_SECONDS)
    api.ping()
    return api


def _guarded_stream(stream: Iterator[T]) -> Iterator[T]:
    """The SDK reads streams below `requests`: an engine that dies breaks them off in the middle."""
    try:
        yield from stream
    except (DockerException, requests.RequestException, *BROKEN_OFF) as error:
        raise EngineUnavailable(str(error)) from error


def _usage(stats: Mapping[str, Any]) -> Usage | None:
    """An ended container answers with empty parts. Cache: `inactive_file`, as `docker stats`."""
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    nanoseconds = stats["cpu_stats"]["cpu_usage"]["total_usage"]
    return Usage(memory_bytes=max(0, memory["usage"] - cache), cpu_seconds=nanoseconds / 1e9)


def _state(inspect: Mapping[str, Any]) -> ContainerState:
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


def _found(entry: Mapping[str, Any]) -> FoundContainer:
    return FoundContainer(
        id=entry["Id"],
        name=entry["Names"][0].lstrip("/") if entry["Names"] else "",
        running=entry["State"] in ALIVE,
        created_at=datetime.fromtimestamp(entry["Created"], UTC),
        labels=entry.get("Labels") or {},
    )


def _gpus(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that an engine names by itself: found by CDI (from Docker 28.3 on), or told to it as
    `node-generic-resources`. CDI's `all` is every one of them once more."""
    found = [entry.get("ID", "") for entry in info.get("DiscoveredDevices") or []]
    named = [name for name in found if CDI_GPU.fullmatch(name) and not name.endswith("=all")]
    resources = [entry.get("NamedResourceSpec") for entry in info.get("GenericResources") or []]
    told = [entry["Value"] for entry in resources if entry and "GPU" in entry["Kind"].upper()]
    return tuple(named or told)


def _moment(text: str | None) -> datetime | None:
    """An engine time (`2026-01-31T10:00:00.123456789Z`); the year 1 stands for "never"."""
    if not text or text.startswith(NEVER):
        return None
    seconds, _, fraction = text.rstrip("Z").partition(".")
    microseconds = (fraction + "000000")[:6]
    return datetime.fromisoformat(f"{seconds}.{microseconds}").replace(tzinfo=UTC)
