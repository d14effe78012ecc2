"""How a Docker Engine of ours is told of gVisor, without a word in /etc."""

import subprocess
from pathlib import Path

import pytest

from deploy.docker_engine import daemon_command


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `runsc` on the path, which says what it was called with."""
    program = tmp_path / "bin" / "runsc"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def test_gvisor_is_registered_where_it_is_installed(installed: Path, tmp_path: Path):
    command = daemon_command(tmp_path, settings=tmp_path / "none.json")
    assert command[-2:] == ["--add-runtime", f"runsc={tmp_path / 'runsc'}"]
    said = subprocess.run([tmp_path / "runsc", "create"], capture_output=True, text=True)
    assert said.stdout == "--network=host --platform=ptrace create\n"


def test_an_operators_own_runtimes_are_left_alone(installed: Path, tmp_path: Path):
    settings = tmp_path / "daemon.json"
    settings.write_text('{"runtimes": {"kata": {"path": "/opt/kata"}}}')
    assert "--add-runtime" not in daemon_command(tmp_path, settings=settings)
    settings.write_text('{"log-driver": "local"}')
    assert "--add-runtime" in daemon_command(tmp_path, settings=settings)


def test_there_is_room_for_more_networks_than_docker_has_by_itself(tmp_path: Path):
    settings = tmp_path / "daemon.json"
    command = daemon_command(tmp_path, settings=settings)
    assert command[:3] == ["dockerd", "--default-address-pool", "base=172.16.0.0/12,size=24"]
    settings.write_text('{"default-address-pools": [{"base": "10.9.0.0/16", "size": 24}]}')
    assert "--default-address-pool" not in daemon_command(tmp_path, settings=settings)


def test_without_gvisor_nothing_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--add-runtime" not in daemon_command(tmp_path, settings=tmp_path / "none.json")
