"""The only place that talks to Docker; errors of its SDK never leave it."""

import contextlib
import math
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from sandbox.container import SandboxSpec
from sandbox.engine_errors import (
    EngineError,
    EngineUnavailable,
    SandboxMismatch,
    guarded_stream,
    mapped,
)
from sandbox.inspection import (
    Capacity,
    ContainerState,
    FoundContainer,
    Usage,
    capacity_in,
    found_in,
    hardening_in,
    state_in,
    usage_in,
)

__all__ = [
    "Capacity",
    "ContainerState",
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "FoundContainer",
    "SandboxMismatch",
    "Usage",
]

CALL_SECONDS = 60
# How often a container that does not answer is looked at.
LOOK_SECONDS = 1.0
READ_BYTES = 65536
# By signal 9: the container's first process, or below it the launcher's script (`launcher.py`).
KILLED = frozenset({128 + signal.SIGKILL, 160 + signal.SIGKILL})


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

    @mapped
    def version(self) -> str:
        return str(self._api.version()["Version"])

    @mapped
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

    @mapped
    def start(self, container_id: str) -> None:
        self._api.start(container_id)

    @mapped
    def state(self, container: str) -> ContainerState | None:
        """By id or name; None when there is no such container."""
        try:
            state = state_in(self._api.inspect_container(container))
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

    @mapped
    def find(self, labels: Mapping[str, str]) -> list[FoundContainer]:
        """Every container, running or not, that carries all of these labels."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        listed = self._api.containers(all=True, filters={"label": wanted})
        return [found_in(entry) for entry in listed]

    @mapped
    def mounted_folders(self, labels: Mapping[str, str]) -> set[Path]:
        """Which folders of the host the containers with these labels have, running or not."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        listed = self._api.containers(all=True, filters={"label": wanted})
        mounts = (mount for entry in listed for mount in entry.get("Mounts", []))
        return {Path(mount["Source"]) for mount in mounts if mount.get("Source")}

    @mapped
    def follow_logs(self, container_id: str) -> Iterator[bytes]:
        """Output and errors in the order they were recorded, from the first byte to the end."""
        stream = self._api.logs(container_id, stdout=True, stderr=True, stream=True, follow=True)
        return guarded_stream(stream)

    @mapped
    def recorded_logs(self, container_id: str) -> Iterator[bytes]:
        """What the engine has of the output now, from the first byte that it kept."""
        stream = self._api.logs(container_id, stdout=True, stderr=True, stream=True, follow=False)
        return guarded_stream(stream)

    @mapped
    def printed(self, container_id: str) -> Iterator[bytes]:
        """What the engine has of the output, without the errors, from the first byte that it kept.

        Raises EngineError when there is no such container.
        """
        stream = self._api.logs(container_id, stdout=True, stderr=False, stream=True, follow=False)
        return guarded_stream(stream)

    @mapped
    def last_printed(self, container_id: str, *, lines: int) -> bytes:
        """What is output among the last so many lines; each has 16 KiB at most."""
        return bytes(self._api.logs(container_id, stdout=True, stderr=False, tail=lines))

    @mapped
    def last_errors(self, container_id: str, *, lines: int) -> bytes:
        """What is errors among the last so many lines; each has 16 KiB at most."""
        return bytes(self._api.logs(container_id, stdout=False, stderr=True, tail=lines))

    @mapped
    def usage(self, container_id: str) -> Usage | None:
        """What the container uses now; None when it does not run."""
        try:
            stats = self._api.stats(container_id, stream=False, one_shot=True)
        except NotFound:
            return None
        return usage_in(stats)

    @mapped
    def capacity(self) -> Capacity:
        """What the engine's host has in all."""
        return capacity_in(self._api.info())

    @mapped
    def runtimes(self) -> tuple[str, ...]:
        """By what names the engine knows what it can run containers with."""
        return tuple(sorted(self._api.info().get("Runtimes") or {}))

    @mapped
    def default_runtime(self) -> str:
        """Whom the engine takes when nobody asks for one."""
        return str(self._api.info()["DefaultRuntime"])

    @mapped
    def events(self, labels: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """Starts, ends and removals of containers with these labels, as they happen."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        filters = {"type": "container", "label": wanted, "event": ["die", "destroy", "oom"]}
        return guarded_stream(self._api.events(decode=True, filters=filters))

    @mapped
    def read_logs(self, container_id: str) -> bytes:
        """What the engine has of a container's output and errors now."""
        return bytes(self._api.logs(container_id, stdout=True, stderr=True))

    @mapped
    def wait(self, container_id: str, *, timeout_seconds: float) -> int:
        """The exit code, once the container has ended.

        Raises EngineUnavailable when that takes longer than `timeout_seconds`.
        """
        seconds = math.ceil(timeout_seconds)
        return int(self._api.wait(container_id, timeout=seconds)["StatusCode"])

    @mapped
    def stop(self, container_id: str, *, grace_seconds: int) -> None:
        """SIGTERM, and SIGKILL when the grace is over. A missing container is stopped already."""
        with contextlib.suppress(NotFound):
            self._api.stop(container_id, timeout=grace_seconds)

    @mapped
    def kill(self, container_id: str) -> None:
        try:
            self._api.kill(container_id)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: it is not running any more
                raise

    @mapped
    def terminate(self, container_id: str) -> None:
        """SIGTERM to the container's first process; it may take its time."""
        try:
            self._api.kill(container_id, signal="SIGTERM")
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: it is not running any more
                raise

    @mapped
    def remove(self, container_id: str) -> None:
        """Removes the container, running or not. A missing one is removed already."""
        try:
            self._api.remove_container(container_id, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # 409: somebody else is removing it
                raise

    @mapped
    def change_limits(self, container_id: str, spec: SandboxSpec) -> None:
        """What can be changed of the limits of a container that runs, to what the spec says.

        By the engine's own path: the SDK knows no way to change `PidsLimit`.
        """
        path = f"{self._api.base_url}/v{self._api.api_version}/containers/{container_id}/update"
        answer = self._api.post(path, json=spec.limits_update(), timeout=CALL_SECONDS)
        if not answer.ok:
            raise EngineError(answer.text.strip())

    @mapped
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

    @mapped
    def checked_readback(self, container_id: str, spec: SandboxSpec) -> dict[str, Any]:
        """`readback` of a container that is what the spec asks for; raises SandboxMismatch."""
        inspect = self._api.inspect_container(container_id)
        differences = spec.differences(inspect)
        if differences:
            raise SandboxMismatch(differences)
        return hardening_in(inspect)

    @mapped
    def image_id(self, tag: str) -> str:
        return str(self._api.inspect_image(tag)["Id"])

    @mapped
    def readback(self, container_id: str) -> dict[str, Any]:
        """The hardening fields as the engine reports them, to be shown to operators."""
        return hardening_in(self._api.inspect_container(container_id))


def _line_after(heard: bytes, answer: bytes) -> bytes | None:
    """None as long as that line is not whole. The stream's own marks, eight bytes before each
    piece, stand before a line, never in one."""
    _, found, after = heard.partition(answer)
    line, newline, _ = after.partition(b"\n")
    return line if found and newline else None


@mapped
def _connect() -> docker.APIClient:
    api = docker.APIClient(**kwargs_from_env(), version="auto", timeout=CALL_SECONDS)
    api.ping()
    return api
