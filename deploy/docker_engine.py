"""Finds a Docker Engine, or installs and starts one as root."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.processes import DEATHS_TOLD, Backoff
from deploy.report import Stop, step, timed_step, warn
from sandbox.container import RUNSC
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.images import base_is_present

START_SECONDS = 60
POLL_SECONDS = 0.2
STOP_SECONDS = 30
DAEMON_SETTINGS = Path("/etc/docker/daemon.json")
# `--network=host` is the container's own network, where the host's firewall holds it; `ptrace`
# needs neither KVM nor a new kernel.
# Docker's own are used up by 31 networks, and an installation has four.
ADDRESS_POOL = "base=172.16.0.0/12,size=24"
GVISOR_OPTIONS = "--network=host --platform=ptrace"


class Daemon:
    """A Docker Engine that we started: it is started again when it dies, and ended by us alone."""

    def __init__(self, *, log: Path, command: Sequence[str] = ("dockerd",)) -> None:
        self._command = command
        self._log = log
        self._backoff = Backoff()
        self.process = self._launch()

    def check(self) -> None:
        """Starts it again when it has died and its turn has come; waits for nothing."""
        if self._backoff.due:
            self.process = self._launch()
            self._backoff.started()
        elif not self._backoff.waits and self.process.poll() is not None:
            self._note_death()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _note_death(self) -> None:
        delay = self._backoff.died()
        if self._backoff.deaths <= DEATHS_TOLD:
            code = self.process.returncode
            warn(
                f"Docker ended with {code}; it is started again in {delay:.0f} s. "
                f"{self._log} says why."
            )

    def _launch(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Out of reach of the terminal's Ctrl-C: it ends after everything that needs it.
                start_new_session=True,
            )


@dataclass(frozen=True)
class EngineHandle:
    """An engine, and its daemon if it is one that we started."""

    engine: Engine
    daemon: Daemon | None

    def check(self) -> None:
        """Starts a daemon of ours that has died again; somebody else's is theirs to mend."""
        if self.daemon is not None:
            self.daemon.check()

    def stop_daemon(self) -> None:
        """Ends a daemon that we started, unless somebody else's containers run on it by now."""
        if self.daemon is None:
            return
        try:
            if any(state.running for state in self.engine.find({})):
                step("Leaving Docker running: other containers use it.")
                return
        except (EngineError, EngineUnavailable):
            pass  # it is gone, or on its way
        self.daemon.stop()


def ensure_engine(logs: Path) -> EngineHandle:
    """Raises Stop with what to install when there is no engine and none can be had."""
    try:
        return EngineHandle(engine=Engine.connect(), daemon=None)
    except EngineUnavailable as error:
        if "Permission denied" in str(error) or "PermissionError" in str(error):
            raise Stop(
                "Docker runs, but this account may not use it: start as root, or join the group "
                "docker (usermod -aG docker <you>, then log in again)."
            ) from None
    if os.environ.get("DOCKER_HOST"):
        raise Stop(f"No Docker Engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}.")
    if os.geteuid() != 0:
        raise Stop(
            "No Docker Engine answers, and starting one needs root: install and start Docker "
            "(apt-get install docker.io), or run make as root."
        )
    if shutil.which("dockerd") is None:
        apt_install("docker.io", "iptables")
    return _start_daemon(logs)


def ensure_image_tools(engine: Engine, packages: Sequence[str] = ()) -> None:
    """What making a base image without a registry takes; nothing when there is a base."""
    if base_is_present(engine, packages) or shutil.which("mmdebstrap"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        apt_install("mmdebstrap")


def apt_install(*packages: str) -> None:
    """With a line that says so. Raises Stop with what went wrong."""
    if shutil.which("apt-get") is None:
        raise Stop(f"Install {' and '.join(packages)} with this system's package manager.")
    with timed_step(f"Installing {', '.join(packages)}"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(command, env=quiet, capture_output=True, text=True)
            if done.returncode:
                raise Stop(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def daemon_command(folder: Path, *, settings: Path = DAEMON_SETTINGS) -> list[str]:
    """`dockerd`, with room for networks and gVisor where that is installed; /etc is left alone.

    What an operator's settings name is left to them: Docker takes each from one place only.
    """
    named = _named(settings)
    command = ["dockerd"]
    if "default-address-pools" not in named:
        command += ["--default-address-pool", ADDRESS_POOL]
    gvisor = shutil.which(RUNSC)
    if gvisor is not None and "runtimes" not in named:
        # The command line takes a path and no options.
        wrapper = folder / RUNSC
        wrapper.write_text(f'#!/bin/sh\nexec {gvisor} {GVISOR_OPTIONS} "$@"\n')
        wrapper.chmod(0o755)
        command += ["--add-runtime", f"{RUNSC}={wrapper}"]
    return command


def _named(settings: Path) -> set[str]:
    """A file that cannot be read is Docker's to complain of."""
    try:
        return set(json.loads(settings.read_text()))
    except (OSError, ValueError, TypeError):
        return set()


def _start_daemon(logs: Path) -> EngineHandle:
    log = logs / "dockerd.log"
    with timed_step("Starting Docker"):
        daemon = Daemon(log=log, command=daemon_command(logs))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and daemon.process.poll() is None:
            try:
                return EngineHandle(engine=Engine.connect(), daemon=daemon)
            except EngineUnavailable:
                time.sleep(POLL_SECONDS)
    daemon.process.kill()
    daemon.process.wait()
    raise Stop(f"Docker did not start; {log} says why.")
