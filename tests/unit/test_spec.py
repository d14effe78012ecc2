"""What every container is made with, and how an engine that ignores a part of it is found out."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from sandbox.image import launcher
from sandbox.spec import (
    RUNC,
    RUNSC,
    Limits,
    SandboxSpec,
    build_spec,
    firewall_spec,
    job_spec,
    record_mb,
    server_spec,
)

LIMITS = Limits(memory_mb=512, cpus=0.5, pids=64, scratch_mb=128)


def a_job(*, variables: Mapping[str, str] = MappingProxyType({})) -> SandboxSpec:
    return job_spec(
        name="job",
        image="image",
        script_folder=Path("/host/job"),
        script_name="train.py",
        environment_folder=Path("/host/env"),
        platform_folder=Path("/host/platform"),
        data_folder=Path("/host/data"),
        variables={"A": "1", "HOME": "/root", **variables},
        network="jobs",
        limits=LIMITS,
        runtime=RUNC,
        resolvers=["192.0.2.53"],
        deadline_seconds=60,
        grace_seconds=5,
        log_bytes=10 * 1024**2,
        log_hard_bytes=1024**3,
        labels={"mlops.installation": "x"},
    )


def a_build() -> SandboxSpec:
    return build_spec(
        name="build",
        image="image",
        command=["true"],
        store_folder=Path("/host/store"),
        user="builder",
        variables={},
        network="jobs",
        limits=LIMITS,
        labels={},
    )


def a_server() -> SandboxSpec:
    return server_spec(
        name="server",
        image="image",
        model_folder=Path("/host/model"),
        environment_folder=Path("/host/env"),
        platform_folder=Path("/host/platform"),
        variables={},
        network="servers",
        limits=LIMITS,
        runtime=RUNC,
        labels={},
    )


def test_what_a_job_has_on_its_path_is_ours_to_say():
    spec = a_job(variables={"PYTHONPATH": "/scratch"})
    assert dict(spec.environment)["PYTHONPATH"] == "/opt/mlops/job_path"
    assert "PYTHONPATH" not in dict(a_server().environment) | dict(a_build().environment)


def honest_inspect(spec: SandboxSpec) -> dict:
    asked = copy.deepcopy(spec.create_arguments())
    return {
        "HostConfig": asked["HostConfig"],
        "Config": {name: asked[name] for name in ("User", "OpenStdin", "StdinOnce")},
        "Mounts": [
            {"Type": "bind", "Destination": mount.target, "RW": not mount.read_only}
            for mount in spec.mounts
        ],
    }


@pytest.mark.parametrize("make", [a_job, a_build, a_server])
def test_every_kind_of_container_is_locked_down_in_the_same_way(make):
    host_config = make().create_arguments()["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["SecurityOpt"] == ["no-new-privileges"]
    assert host_config["ReadonlyRootfs"] is True
    assert host_config["Privileged"] is False
    assert host_config["Memory"] == host_config["MemorySwap"] == 512 * 1024 * 1024
    assert host_config["CpuQuota"] == 50_000
    assert "NanoCpus" not in host_config
    assert host_config["PidsLimit"] == 64


def test_a_job_and_a_server_can_write_to_nothing_of_the_host():
    for spec in (a_job(), a_server()):
        assert all(mount.read_only for mount in spec.mounts)


def test_no_container_ever_sees_the_docker_socket():
    for spec in (a_job(), a_build(), a_server()):
        assert not any("docker.sock" in str(mount.source) for mount in spec.mounts)


def test_a_users_variable_cannot_take_the_place_of_ours():
    assert dict(a_job().environment)["HOME"] == "/scratch"


def test_an_engine_that_did_as_asked_shows_no_difference():
    for spec in (a_job(), a_build(), a_server()):
        assert spec.differences(honest_inspect(spec)) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CapDrop", None),
        ("SecurityOpt", None),
        ("ReadonlyRootfs", False),
        ("Privileged", True),
        ("MemorySwap", -1),
        ("PidsLimit", None),
        ("NetworkMode", "host"),
        ("IpcMode", "host"),
        ("PidMode", "host"),
    ],
)
def test_every_field_that_the_engine_dropped_is_named(field, value):
    inspect = honest_inspect(a_job())
    inspect["HostConfig"][field] = value
    assert [line for line in a_job().differences(inspect) if field in line]


def test_a_mount_that_became_writable_or_was_added_is_named():
    writable, added = honest_inspect(a_job()), honest_inspect(a_job())
    writable["Mounts"][0]["RW"] = True
    added["Mounts"].append({"Type": "bind", "Destination": "/host", "RW": False})
    assert a_job().differences(writable)
    assert a_job().differences(added)


def test_another_user_is_named():
    inspect = honest_inspect(a_job())
    inspect["Config"]["User"] = ""
    assert a_job().differences(inspect)


@pytest.mark.parametrize("log_bytes", [1024, 10 * 1024**2, 500 * 1024**2])
def test_the_engine_never_drops_what_the_launcher_sends(log_bytes: int):
    """An hour of a line every pause, and the excerpt, its tail twice, as the engine writes it."""
    frames_a_second = 1 / (launcher.PAUSE_SECONDS + launcher.LINE_SECONDS)
    excerpt = log_bytes * (1.5 + 1 / launcher.SAMPLES_SHARE)
    frames = 3610 * frames_a_second + excerpt / launcher.FRAME_BYTES
    line = len(
        '{"log":"@123456789 \\n","stream":"stdout","time":"2026-01-31T10:00:00.123456789Z"}\n'
    )
    spec = replace(a_job(), engine_log_mb=record_mb(log_bytes, seconds=3610))
    told = spec.create_arguments()["HostConfig"]["LogConfig"]["Config"]
    assert told["max-file"] == "2"
    assert int(told["max-size"].removesuffix("m")) * 1024**2 >= excerpt * 4 / 3 + frames * line


@pytest.mark.parametrize("network", ["", "default", "bridge", "host", "container:other"])
@pytest.mark.parametrize("make", [a_job, a_build, a_server])
def test_no_container_is_on_a_network_that_is_not_the_installations_own(make, network: str):
    with pytest.raises(ValueError, match="cannot be on the network"):
        replace(make(), network=network)


@pytest.mark.parametrize("user", ["", "0", "root", "0:0"])
def test_no_container_runs_as_root(user: str):
    with pytest.raises(ValueError, match="root"):
        replace(a_build(), user=user)


@pytest.mark.parametrize("name", ["memory_mb", "cpus", "pids", "scratch_mb"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_limit_can_be_switched_off(name: str, value: int):
    with pytest.raises(ValueError, match=name):
        replace(LIMITS, **{name: value})


def test_only_the_firewall_has_a_right_and_it_has_one():
    rules = firewall_spec(name="f", image="i", command=["sh"], rules="", labels={})
    host_config = rules.create_arguments()["HostConfig"]
    assert host_config["CapAdd"] == ["NET_ADMIN"]
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["ReadonlyRootfs"] is True
    assert host_config["SecurityOpt"] == ["no-new-privileges"]
    assert host_config["Mounts"] == []
    for make in (a_job, a_build, a_server):
        assert make().create_arguments()["HostConfig"]["CapAdd"] == []


@pytest.mark.parametrize("make", [a_job, a_build, a_server])
def test_every_kind_has_namespaces_a_log_and_files_of_its_own(make):
    host_config = make().create_arguments()["HostConfig"]
    assert host_config["IpcMode"] == host_config["CgroupnsMode"] == "private"
    assert host_config["PidMode"] == host_config["UTSMode"] == host_config["UsernsMode"] == ""
    assert host_config["OomScoreAdj"] == 500
    assert host_config["LogConfig"]["Config"] == {"max-size": "50m", "max-file": "2"}
    limits = {each["Name"]: each["Hard"] for each in host_config["Ulimits"]}
    assert limits == {"core": 0, "nofile": 4096}
    assert "noexec" in host_config["Tmpfs"]["/tmp"]
    assert all("size=" in options for options in host_config["Tmpfs"].values())


@pytest.mark.parametrize("make", [a_job, a_server])
def test_an_engine_that_takes_another_runtime_is_found_out(make):
    """Two well-known projects believed for years that they ran under gVisor."""
    wanted = replace(make(), runtime=RUNSC)
    assert wanted.create_arguments()["HostConfig"]["Runtime"] == RUNSC
    told = honest_inspect(wanted)
    assert wanted.differences(told) == []
    for other in (RUNC, "", None):
        told["HostConfig"]["Runtime"] = other
        (difference,) = wanted.differences(told)
        assert difference.startswith("HostConfig.Runtime: asked for 'runsc'")


def test_a_container_without_the_name_of_its_runtime_cannot_be_asked_for():
    with pytest.raises(ValueError, match="runtime"):
        replace(a_job(), runtime="")


def test_what_the_host_counts_as_processes_of_gvisor_is_room_for_the_scripts():
    limits = {name: replace(a_job(), runtime=name) for name in (RUNC, RUNSC, "kata-fc")}
    asked = {
        name: spec.create_arguments()["HostConfig"]["PidsLimit"] for name, spec in limits.items()
    }
    assert asked == {RUNC: 64, RUNSC: 128 + 6 * 64, "kata-fc": 64}
    assert [spec.has_own_kernel for spec in limits.values()] == [False, True, True]


def test_the_firewalls_rules_are_written_by_the_hosts_own_kernel():
    rules = firewall_spec(name="f", image="i", command=["sh"], rules="", labels={})
    assert rules.runtime == RUNC
