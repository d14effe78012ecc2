"""A Docker Engine that we started and that dies: one of the test's own, beside the machine's."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests
from docker.errors import DockerException

from deploy.docker_engine import Daemon
from deploy.trial import wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("dockerd") is None, reason="starting an engine needs root"
)
ANSWER_SECONDS = 90


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: that of a socket may have no more than 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="mlops-test-"))
    yield folder
    # The engine mounts its folder on itself, and a killed one leaves that.
    subprocess.run(["umount", str(folder / "data")], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_engine_answers_again(home: Path):
    address = f"unix://{home}/engine.sock"
    # In a network of its own: without a bridge a daemon deletes the machine's `docker0`.
    command = ["unshare", "--net", "dockerd", "--host", address, "--pidfile", str(home / "pid")]
    command += ["--data-root", str(home / "data"), "--exec-root", str(home / "exec")]
    command += ["--bridge=none", "--iptables=false", "--ip-masq=false", "--storage-driver=vfs"]
    daemon = Daemon(log=home / "log", command=command)

    def answers() -> bool:
        daemon.check()
        try:
            with contextlib.closing(docker.APIClient(base_url=address, version="auto")) as api:
                return bool(api.ping())
        except (DockerException, requests.RequestException):
            return False

    try:
        wait_for(answers, seconds=ANSWER_SECONDS, what="the engine")
        first = daemon.process
        first.kill()
        first.wait()
        wait_for(answers, seconds=ANSWER_SECONDS, what="the engine, again")
        assert daemon.process is not first
    finally:
        daemon.stop()
