"""The only place that talks to Docker; errors of its SDK never leave it."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from sandbox.container import SandboxSpec
from sandbox.container_input import ContainerInput
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
# By signal 9: the container's first process, or below it the launcher's script (`launcher.py`).
KILLED = frozenset({128 + signal.SIGKILL, 160 + signal.SIGKILL})
# How long after an end the kernel's word about memory may still come, on a busy host.
LATE_WORD_SECONDS = 1


@dataclass(frozen=True)
class MadeContainer:
    """A container that is what was asked for; `readback` has the hardening fields as the engine
    reports them, to be shown to operators."""

    id: str
    readback: dict[str, Any]


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

    def create(self, spec: SandboxSpec) -> str:
        """As `make`, for whoever shows nobody what was read back: the container's id."""
        return self.make(spec).id

    @mapped
    def make(self, spec: SandboxSpec) -> MadeContainer:
        """Makes the container, not started, and reads it back.

        Raises SandboxMismatch, and leaves nothing behind, when the engine made something else.
        """
        made = self._api.create_container_from_config(spec.create_arguments(), spec.name)
        container_id = str(made["Id"])
        inspect = self._api.inspect_container(container_id)
        differences = spec.differences(inspect)
        if differences:
            self.remove(container_id)
            raise SandboxMismatch(differences)
        return MadeContainer(container_id, hardening_in(inspect))

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

        The word of the kernel and the end reach it by two ways; the end may be first, and the flag
        is then never set. Of an end of just now the word is waited for.
        """
        if state.started_at is None or state.finished_at is None:
            return False
        latest = max(time.time(), state.finished_at.timestamp() + LATE_WORD_SECONDS)
        # Whole seconds, which is what the SDK's types know, would leave out the one that counts.
        told = self._api.events(  # type: ignore[call-overload]
            since=f"{state.started_at.timestamp():.6f}",
            until=f"{latest:.6f}",
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
    def attach(self, container_id: str) -> ContainerInput:
        """The input of a container, whether it was started already or not; to be closed."""
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        wrapped = self._api.attach_socket(container_id, params=wanted)
        return ContainerInput(wrapped, record_of_ended=lambda: self._record_of_ended(container_id))

    def _record_of_ended(self, container_id: str) -> bytes | None:
        """What it printed; None while it runs."""
        state = self.state(container_id)
        if state is not None and state.running:
            return None
        return b"" if state is None else self.read_logs(state.id)

    @mapped
    def checked_readback(self, container_id: str, spec: SandboxSpec) -> dict[str, Any]:
        """The hardening fields as the engine reports them now, to be shown to operators.

        Raises SandboxMismatch when the container is not what the spec asks for.
        """
        inspect = self._api.inspect_container(container_id)
        differences = spec.differences(inspect)
        if differences:
            raise SandboxMismatch(differences)
        return hardening_in(inspect)

    @mapped
    def image_id(self, tag: str) -> str:
        return str(self._api.inspect_image(tag)["Id"])


@mapped
def _connect() -> docker.APIClient:
    api = docker.APIClient(**kwargs_from_env(), version="auto", timeout=CALL_SECONDS)
    api.ping()
    return api
