"""A Docker Engine that belongs to one test: own namespaces, own data, own socket, own death.

Two daemons in one network namespace rewrite each other's firewall rules, so this one lives in a
network of its own, and so does everything that talks to its containers: a whole command is run in
there (`run_inside`). When that command ends, the kernel ends all that it started.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.accounts import CHECKOUT
from deploy.docker_engine import daemon_command
from deploy.trial import wait_for
from sandbox.engine import Engine, EngineUnavailable

NAMESPACES = ("--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")
START_SECONDS = 60
CGROUP = "mlops-chaos"


def can_be_made() -> bool:
    return os.geteuid() == 0 and bool(shutil.which("dockerd") and shutil.which("unshare"))


def run_inside(
    arguments: Sequence[str], *, timeout_seconds: float, module: str = "tests.chaos"
) -> int:
    """`python -m tests.chaos …` in namespaces of its own; the exit code."""
    command = ["unshare", *NAMESPACES, sys.executable, "-m", module, "inside", *arguments]
    process = subprocess.Popen(command, cwd=CHECKOUT, start_new_session=True)
    try:
        return process.wait(timeout=timeout_seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _remove_cgroups()


def leave_process_one() -> None:
    """Goes on in a child; the first process only takes in what is orphaned, as an init does.

    Otherwise a containerd that died stays a process, and the next dockerd waits for it.
    """
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def prepare_namespace() -> None:
    """What a daemon expects of a machine."""
    cgroups = Path("/run/mlops-chaos-cgroups")
    cgroups.mkdir(exist_ok=True)
    for command in (
        "mount --make-rprivate /",
        # This network's devices below /sys, with the machine's cgroups put back.
        f"mount --rbind /sys/fs/cgroup {cgroups}",
        "mount -t sysfs sysfs /sys",
        f"mount --rbind {cgroups} /sys/fs/cgroup",
        # Where a daemon would find, and use, the machine's own containerd.
        "mkdir -p /run/containerd",
        "mount -t tmpfs tmpfs /run/containerd",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)


class OwnEngine:
    """The daemon: started, killed without warning, started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "dockerd.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{folder}/docker.sock"

    def start(self) -> Engine:
        """The engine, once it answers. `DOCKER_HOST` names it from then on."""
        os.environ["DOCKER_HOST"] = self.address
        (self._folder / "docker.pid").unlink(missing_ok=True)
        command = [*daemon_command(self._folder), "-H", self.address]
        command += ["--data-root", f"{self._folder}/data"]
        command += [
            "--exec-root",
            f"{self._folder}/exec",
            "--pidfile",
            f"{self._folder}/docker.pid",
        ]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{CGROUP}"]
        with self._log.open("ab") as output:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return wait_for(self._answer, seconds=START_SECONDS, what=f"dockerd; {self._log}")

    def kill(self) -> None:
        """SIGKILL; containers and containerd go on until the next start."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def load(self, archive: Path) -> None:
        with archive.open("rb") as stream:
            self._answer_now().api.load_image(stream)

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def _answer_now(self) -> Engine:
        return Engine.connect()

    def _answer(self) -> Engine | None:
        assert self._daemon is not None
        assert self._daemon.poll() is None, self.said()
        try:
            return self._answer_now()
        except EngineUnavailable:
            return None


def _remove_cgroups() -> None:
    """The kernel keeps the empty folders; deepest first."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        for folder in sorted((root / CGROUP).rglob("*"), reverse=True):
            if folder.is_dir():
                _remove_folder(folder)
        _remove_folder(root / CGROUP)


def _remove_folder(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
