"""What a job container is to the engine, and what a hostile script can do in it: nothing much."""

import json
from pathlib import Path

import pytest

from deploy.trial import wait_for
from sandbox import seccomp
from sandbox.engine import Engine, SandboxMismatch
from sandbox.environments import Environment, EnvironmentStore
from sandbox.output import printed_bytes
from tests.fixtures.engine import JobRunner, said


@pytest.fixture
def run(jobs: JobRunner, plain_environment: Environment, environments: EnvironmentStore, tmp_path):
    """Runs a script to its end; returns its exit code, its output and the engine's state of it."""

    def run_script(script: str, **options):
        spec = jobs.spec(
            tmp_path,
            script,
            environment=plain_environment,
            platform=environments.platform_folder(),
            **options,
        )
        container = jobs.start(spec)
        output = printed_bytes(jobs.engine.follow_logs(container)).decode()
        code = jobs.engine.wait(container, timeout_seconds=90)
        return code, output, jobs.engine.state(container)

    return run_script


@pytest.fixture
def waiting_job(jobs, plain_environment, environments, tmp_path) -> str:
    """A live container whose script has begun and waits."""
    script = "import threading\nprint('up', flush=True)\nthreading.Event().wait()\n"
    spec = jobs.spec(
        tmp_path,
        script,
        environment=plain_environment,
        platform=environments.platform_folder(),
    )
    container = jobs.start(spec)

    def is_up() -> bool:
        return said(jobs.engine, container) == "up\n"

    wait_for(is_up, seconds=30, what="the script")
    return container


def test_the_engine_reports_every_hardening_field_of_a_live_job(engine: Engine, waiting_job: str):
    inspect = engine.api.inspect_container(waiting_job)
    host = inspect["HostConfig"]
    assert inspect["State"]["Running"]
    assert inspect["Config"]["User"] == "runner"
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges", seccomp.OPTION]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["Memory"] == host["MemorySwap"] == 256 * 1024 * 1024
    assert (host["CpuPeriod"], host["CpuQuota"]) == (100_000, 100_000)
    assert host["PidsLimit"] == 64
    assert host["IpcMode"] == "private"
    assert host["PidMode"] == ""
    assert host["NetworkMode"].endswith("-jobs")
    assert not host["Binds"]
    assert not host["Devices"]
    assert set(host["Tmpfs"]) == {"/tmp", "/scratch"}
    assert host["RestartPolicy"]["Name"] == "no"
    mounts = {mount["Destination"]: mount["RW"] for mount in inspect["Mounts"]}
    assert mounts == {"/job": False, "/env": False, "/platform": False, "/data": False}


def test_the_process_itself_has_no_rights(run):
    script = (
        "import json\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(json.dumps(dict(line.split(':\\t', 1) for line in lines if ':\\t' in line)))\n"
    )
    code, output, _ = run(script)
    status = json.loads(output)
    assert code == 0
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/env/x", "/job/x", "/data/x", "/opt/mlops/x"])
def test_nothing_but_scratch_can_be_written(run, path):
    code, output, _ = run(f"open({path!r}, 'w')")
    assert code == 1
    assert "Read-only file system" in output or "Permission denied" in output


def test_scratch_is_the_home_and_is_bounded(run):
    script = (
        "import os\n"
        "print(os.getcwd(), os.environ['HOME'])\n"
        "open('small', 'w').write('x')\n"
        "open('large', 'wb').write(bytes(64 * 1024 * 1024))\n"
    )
    code, output, _ = run(script)
    assert output.startswith("/scratch /scratch\n")
    assert code == 1
    assert "No space left on device" in output


def test_the_docker_socket_and_the_host_are_not_there(run):
    script = (
        "import os\n"
        "print([p for p in ('/var/run/docker.sock', '/run/docker.sock') if os.path.exists(p)])\n"
        "print(sorted(os.listdir('/store')), sorted(os.listdir('/data')))\n"
        "print(len([p for p in os.listdir('/proc') if p.isdigit()]))\n"
    )
    code, output, _ = run(script)
    assert code == 0
    assert output.splitlines()[:2] == ["[]", "[] []"]
    assert int(output.splitlines()[2]) <= 3


def test_memory_beyond_the_limit_ends_the_script_and_the_engine_says_why(run):
    code, _, state = run("x = []\nwhile True:\n    x.append(bytearray(10_000_000))\n")
    assert code == 169
    assert state.oom_killed


def test_a_fork_bomb_stops_at_the_limit_of_processes(run):
    script = (
        "import os, signal\n"
        "made = 0\n"
        "try:\n"
        "    while made < 500:\n"
        "        if os.fork() == 0:\n"
        "            signal.pause()\n"
        "        made += 1\n"
        "except BlockingIOError:\n"
        "    print('stopped below the limit:', made < 64)\n"
        "os.killpg(0, signal.SIGTERM)\n"
    )
    _, output, _ = run(script)
    assert "stopped below the limit: True" in output


def test_the_launcher_keeps_the_deadline_inside_the_container(run):
    script = "import threading\nprint('working', flush=True)\nthreading.Event().wait()\n"
    code, output, state = run(script, deadline_seconds=2, grace_seconds=1)
    assert code == 124
    assert output == "working\n"
    assert (state.finished_at - state.started_at).total_seconds() >= 2


def test_output_and_errors_come_in_the_order_they_were_written(run):
    script = (
        "import sys\n"
        "for number in range(200):\n"
        "    print(number, file=sys.stdout if number % 2 else sys.stderr, flush=True)\n"
    )
    _, output, _ = run(script)
    assert output.split() == [str(number) for number in range(200)]


def test_a_script_cannot_reach_the_launchers_own_output(run):
    script = (
        "import ctypes, os\n"
        "def attempt(call):\n"
        "    try:\n"
        "        return call()\n"
        "    except OSError as error:\n"
        "        return error.strerror\n"
        "for name in ('fd', 'fd/1', 'mem', 'environ'):\n"
        "    print(attempt(lambda: open('/proc/1/' + name, 'rb')))\n"
        "print(attempt(lambda: os.listdir('/proc/1/fd')))\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "handle = os.pidfd_open(1)\n"
        "def syscall(*arguments):\n"
        "    if libc.syscall(*arguments) < 0:\n"
        "        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
        "    return 'reached'\n"
        "print(attempt(lambda: syscall(438, handle, 1, 0)))  # pidfd_getfd\n"
        "print(attempt(lambda: syscall(101, 16, 1, 0, 0)))  # ptrace(PTRACE_ATTACH)\n"
    )
    code, output, _ = run(script)
    assert code == 0
    refused = {"Permission denied", "Operation not permitted"}
    assert len(output.splitlines()) == 7
    assert set(output.splitlines()) <= refused


def test_a_script_sees_the_variables_it_was_given_and_no_others_of_ours(run):
    code, output, _ = run(
        "import os\nprint(sorted(os.environ))\n", variables={"DATA_PATH": "/data/x"}
    )
    assert code == 0
    assert "DATA_PATH" in output
    assert "SECRET" not in output
    assert "DOCKER" not in output


def test_two_jobs_cannot_reach_each_other(
    engine: Engine, jobs, waiting_job, plain_environment, environments, tmp_path_factory
):
    address = engine.state(waiting_job).ip_address
    script = (
        "import socket\n"
        "probe = socket.socket()\n"
        "probe.settimeout(3)\n"
        f"print('reached', probe.connect_ex(({address!r}, 22)))\n"
    )
    spec = jobs.spec(
        tmp_path_factory.mktemp("other"),
        script,
        environment=plain_environment,
        platform=environments.platform_folder(),
    )
    output = printed_bytes(engine.follow_logs(jobs.start(spec))).decode()
    # 11 (time is over), not 111 (refused): with a way there, the other container would refuse.
    assert output.strip() == "reached 11"


def test_a_container_that_is_not_what_was_asked_for_is_never_started(
    engine: Engine, jobs, plain_environment, environments, tmp_path: Path, monkeypatch
):
    """Fault injection: an engine that takes `no-new-privileges` and drops it in silence."""
    spec = jobs.spec(
        tmp_path,
        "print('started')",
        environment=plain_environment,
        platform=environments.platform_folder(),
    )
    honest = engine.api.create_container_from_config

    def forgetful(config, *arguments, **options):
        config["HostConfig"]["SecurityOpt"] = None
        return honest(config, *arguments, **options)

    monkeypatch.setattr(engine.api, "create_container_from_config", forgetful)
    with pytest.raises(SandboxMismatch) as mismatch:
        engine.create(spec)
    assert "SecurityOpt" in str(mismatch.value)
    assert engine.state(spec.name) is None


def test_a_container_that_is_gone_is_told_from_one_that_ended(engine: Engine, waiting_job: str):
    assert engine.state(waiting_job).running
    engine.kill(waiting_job)
    assert engine.wait(waiting_job, timeout_seconds=20) == 137
    assert engine.state(waiting_job).exit_code == 137
    engine.remove(waiting_job)
    assert engine.state(waiting_job) is None
    engine.remove(waiting_job)
    engine.kill(waiting_job)
