"""Finds a Docker Engine, or installs and starts one as root."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.report import Stop, step, timed_step
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.images import base_is_present

START_SECONDS = 60
POLL_SECONDS = 0.2
STOP_SECONDS = 30


@dataclass(frozen=True)
class EngineHandle:
    """An engine, and the daemon's process if it is one that we started."""

    engine: Engine
    daemon: "subprocess.Popen[bytes] | None"

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
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


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


def ensure_image_tools(engine: Engine) -> None:
    """What making a base image without a registry takes; nothing when there is a base."""
    if base_is_present(engine) or shutil.which("mmdebstrap"):
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


def _start_daemon(logs: Path) -> EngineHandle:
    log = logs / "dockerd.log"
    with timed_step("Starting Docker"), log.open("ab") as output:
        daemon = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and daemon.poll() is None:
            try:
                return EngineHandle(engine=Engine.connect(), daemon=daemon)
            except EngineUnavailable:
                time.sleep(POLL_SECONDS)
    daemon.kill()
    raise Stop(f"Docker did not start; {log} says why.")
