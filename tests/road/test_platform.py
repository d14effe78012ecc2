"""The platform as a set of processes: who may what, and that it leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.trial import Platform, start_platform, stop_platform, wait_for
from sandbox.engine import Engine

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="without root every process runs as the one account there is"
)


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}


def environment_of(pid: int) -> set[str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return {entry.partition("=")[0] for entry in raw.split("\0") if entry}


def processes_that_name(folder: Path) -> list[str]:
    """Command lines of running processes with the folder in them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace").replace("\0", " "))
    return [line for line in lines if str(folder) in line]


@needs_root
def test_web_and_mlflow_run_without_rights(platform: Platform):
    pids = platform.processes()
    accounts = set()
    for name in ("web", "mlflow"):
        status = status_of(pids[name])
        assert "0" not in status["Uid"]
        assert status.get("Groups", []) == []
        assert int(status["CapEff"][0], 16) == 0
        accounts.add(status["Uid"][0])
    assert len(accounts) == 2
    assert status_of(pids["worker"])["Uid"][0] == "0"


def test_an_operators_command_finds_the_installation_that_runs(platform: Platform):
    command = [sys.executable, "-m", "deploy", "manage", "retention", "--dry-run"]
    environment = {**os.environ, "MLOPS_HOME": str(platform.home)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "MLflow runs, by job" in said.stdout


@needs_root
def test_the_web_account_cannot_reach_docker_or_anybodys_files(platform: Platform):
    uid = int(status_of(platform.processes()["web"])["Uid"][0])
    gid = int(status_of(platform.processes()["web"])["Gid"][0])
    home = platform.home
    script = (
        "import socket, sys\n"
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1]) if sys.argv[1].endswith('.sock') "
        "else __import__('os').listdir(sys.argv[1])\n"
    )
    # Whatever folder the tests run from: the account need not reach that.
    python = Path(sys.executable).resolve()
    forbidden = [home / name for name in ("secrets", "jobs", "models", "environments", "mlflow")]
    for path in [Path("/var/run/docker.sock"), *forbidden]:
        done = subprocess.run(
            [python, "-c", script, str(path)],
            user=uid,
            group=gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert "PermissionError" in done.stderr, path


def test_each_process_gets_only_the_secrets_it_needs(platform: Platform):
    pids = platform.processes()
    web, worker = environment_of(pids["web"]), environment_of(pids["worker"])
    assert "DOCKER_HOST" not in web
    assert "MLOPS_MLFLOW_SECRET" not in web | worker
    keys = {
        name: next(
            entry
            for entry in Path(f"/proc/{pids[name]}/environ").read_text().split("\0")
            if entry.startswith("MLOPS_SECRET_KEY=")
        )
        for name in ("web", "worker", "supervisor")
    }
    assert keys["web"] != keys["worker"] == keys["supervisor"]


def test_the_web_process_has_no_model_flavour_in_it(platform: Platform):
    maps = Path(f"/proc/{platform.processes()['web']}/maps").read_text()
    assert "sklearn" not in maps
    assert "pandas" not in maps


def test_a_died_process_is_started_again(platform: Platform):
    before = platform.processes()["web"]
    os.kill(before, signal.SIGKILL)
    after = wait_for(
        lambda: (pid := platform.processes().get("web")) != before and pid,
        seconds=20,
        what="a new web process",
    )
    assert after != before

    def answers() -> bool:
        try:
            return platform.get("/mlops/ready").status_code == 200
        except OSError:
            return False

    assert wait_for(answers, seconds=30, what="the web process to answer")


def test_a_second_start_finds_everything_and_an_end_leaves_nothing(
    engine: Engine, installation_id: str, platform: Platform, tmp_path_factory
):
    """A second installation beside the running one, started twice."""
    from deploy.testing import ROAD_SUFFIX, remove_installation  # noqa: PLC0415

    other = f"{installation_id}{ROAD_SUFFIX[:2]}2"
    home = tmp_path_factory.mktemp("twice") / "var"
    try:
        first = start_platform(home, other)
        assert "Admin user made: admin / " in first.log.read_text()
        assert first.url != platform.url
        said = stop_platform(first)
        assert "Stopped. Nothing that was started here runs any more." in said
        assert first.process.returncode == 0
        second = start_platform(home, other)
        said = stop_platform(second)
        assert "Admin user made" not in said
        assert "Making the runner image" not in said
        assert "Installing the packages" not in said
        assert engine.find({"mlops.installation": other}) == []
        assert processes_that_name(home) == []
    finally:
        remove_installation(engine, other)
    assert platform.get("/mlops/ready").status_code == 200


def test_a_second_start_of_the_same_folder_says_who_runs_it(platform: Platform):
    environment = {**os.environ, "MLOPS_HOME": str(platform.home), "PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"running already (process {platform.process.pid})" in done.stderr
    assert "Traceback" not in done.stderr
