"""What every container is made with, and how an engine that ignores a part of it is found out."""

import copy
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sandbox import seccomp
from sandbox.container import (
    HIDDEN_PATHS,
    NEVER_ASKED,
    RUNC,
    RUNSC,
    Kind,
    Limits,
    Mount,
    SandboxSpec,
)
from sandbox.image import launcher
from sandbox.spec import (
    batch_spec,
    build_spec,
    firewall_spec,
    job_spec,
    record_mb,
    server_spec,
    waiting_spec,
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


def a_waiting() -> SandboxSpec:
    return waiting_spec(
        name="waiting",
        image="image",
        script_folder=Path("/host/job"),
        environment_folder=Path("/host/env"),
        platform_folder=Path("/host/platform"),
        data_folder=Path("/host/data"),
        variables={},
        network="jobs",
        resolvers=[],
        limits=LIMITS,
        runtime=RUNC,
        seconds_max=3600,
        log_bytes=1024,
        labels={},
    )


def a_batch() -> SandboxSpec:
    return batch_spec(
        name="batch",
        image="image",
        arguments=["--file", "/data/input.csv"],
        model_folder=Path("/host/model"),
        input_folder=Path("/host/input"),
        environment_folder=Path("/host/env"),
        platform_folder=Path("/host/platform"),
        variables={},
        limits=LIMITS,
        runtime=RUNC,
        output_bytes=300 * 1024**2,
        labels={},
    )


KINDS = [a_job, a_waiting, a_build, a_server, a_batch]


def test_a_batch_has_no_network_and_writes_nowhere_but_into_its_record():
    spec = a_batch()
    assert spec.network == "none"
    assert all(mount.read_only for mount in spec.mounts)
    # In base64, and in pieces of 16 KiB with the engine's own marks.
    assert 300 * 4 / 3 < spec.engine_log_mb - 50 < 300 * 4 / 3 * 1.02


def honest_inspect(spec: SandboxSpec) -> dict:
    asked = copy.deepcopy(spec.create_arguments())
    return {
        "HostConfig": {
            **asked["HostConfig"],
            **{name: list(paths) for name, paths in HIDDEN_PATHS.items()},
        },
        "Config": {name: asked[name] for name in ("User", "OpenStdin", "StdinOnce")},
        "Mounts": [
            {"Type": "bind", "Destination": mount.target, "RW": not mount.read_only}
            for mount in spec.mounts
        ],
    }


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_container_is_locked_down_in_the_same_way(make):
    host_config = make().create_arguments()["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["SecurityOpt"] == ["no-new-privileges", seccomp.OPTION]
    assert host_config["ReadonlyRootfs"] is True
    assert host_config["Privileged"] is False
    assert host_config["Memory"] == host_config["MemorySwap"] == 512 * 1024 * 1024
    assert host_config["CpuQuota"] == 50_000
    assert "NanoCpus" not in host_config
    assert host_config["PidsLimit"] == 64


def test_a_job_and_a_server_can_write_to_nothing_of_the_host():
    for spec in (a_job(), a_waiting(), a_server()):
        assert all(mount.read_only for mount in spec.mounts)


def test_no_container_ever_sees_the_docker_socket():
    for spec in (make() for make in KINDS):
        assert not any("docker.sock" in str(mount.source) for mount in spec.mounts)


def test_a_users_variable_cannot_take_the_place_of_ours():
    assert dict(a_job().environment)["HOME"] == "/scratch"


def test_an_engine_that_did_as_asked_shows_no_difference():
    for spec in (make() for make in KINDS):
        assert spec.differences(honest_inspect(spec)) == []


def other(value: Any) -> Any:
    """The same field as an engine might have it that does as it likes."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case list():
            return [*value, "x"]
        case dict():
            return {**value, "x": "y"}
    raise AssertionError(f"A field of a spec is {value!r}.")


@pytest.mark.parametrize("make", KINDS)
def test_every_field_that_the_engine_changed_or_dropped_is_named(make):
    spec = make()
    for field, value in spec.create_arguments()["HostConfig"].items():
        changed, dropped = honest_inspect(spec), honest_inspect(spec)
        changed["HostConfig"][field] = other(value)
        assert [line for line in spec.differences(changed) if field in line], field
        del dropped["HostConfig"][field]
        named = [line for line in spec.differences(dropped) if field in line]
        assert named or value in ([], {}, ""), field


@pytest.mark.parametrize("make", KINDS)
def test_what_no_spec_asks_for_is_found_where_somebody_set_it(make):
    spec = make()
    for field in NEVER_ASKED:
        inspect = honest_inspect(spec)
        inspect["HostConfig"][field] = ["x"]
        assert [line for line in spec.differences(inspect) if field in line], field
    for field in HIDDEN_PATHS:
        inspect = honest_inspect(spec)
        inspect["HostConfig"][field] = inspect["HostConfig"][field][1:]
        assert [line for line in spec.differences(inspect) if field in line], field


@pytest.mark.parametrize("make", KINDS)
def test_every_field_of_a_spec_is_part_of_what_is_asked_for_or_of_the_shape(make):
    """A field that is added to the spec and forgotten in the body would be found here."""
    spec = make()
    others: dict[str, Any] = {
        "kind": Kind.FIREWALL,
        "limits": replace(LIMITS, pids=65),
        "user": "builder" if spec.user == "runner" else "runner",
        "mounts": (*spec.mounts, Mount(Path("/host/more"), "/more")),
        "network": "another",
        "takes_order": not spec.takes_order,
        "engine_log_mb": spec.engine_log_mb + 1,
    }
    for field in fields(spec):
        if field.name == "name":
            continue
        value = getattr(spec, field.name)
        changed = others.get(field.name, (*value, "x") if isinstance(value, tuple) else f"{value}x")
        if field.name in ("environment", "labels"):
            changed = (*value, ("x", "y"))
        made = replace(spec, **{field.name: changed}).create_arguments()
        # The one kind with a right of its own is told by it.
        assert made != spec.create_arguments(), field.name


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
@pytest.mark.parametrize("make", KINDS)
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
    assert host_config["SecurityOpt"] == ["no-new-privileges", seccomp.OPTION]
    assert host_config["Mounts"] == []
    for make in KINDS:
        assert make().create_arguments()["HostConfig"]["CapAdd"] == []


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_has_namespaces_a_log_and_files_of_its_own(make):
    host_config = make().create_arguments()["HostConfig"]
    assert host_config["IpcMode"] == host_config["CgroupnsMode"] == "private"
    assert host_config["PidMode"] == host_config["UTSMode"] == host_config["UsernsMode"] == ""
    assert host_config["OomScoreAdj"] == 500
    assert host_config["LogConfig"]["Config"]["max-file"] == "2"
    limits = {each["Name"]: each["Hard"] for each in host_config["Ulimits"]}
    assert limits == {"core": 0, "nofile": 4096}
    assert "noexec" in host_config["Tmpfs"]["/tmp"]
    assert all("size=" in options for options in host_config["Tmpfs"].values())


@pytest.mark.parametrize("make", [a_build, a_server])
def test_what_has_no_launcher_of_ours_has_the_engines_init_that_reaps(make):
    assert make().create_arguments()["HostConfig"]["Init"] is True


def test_a_scripts_first_process_is_our_launcher():
    for make in (a_job, a_waiting):
        assert make().create_arguments()["HostConfig"]["Init"] is False


# -- system calls --------------------------------------------------------------------------------
def allowed_calls() -> set[str]:
    rules = json.loads(seccomp.PROFILE)["syscalls"]
    allowed = (rule["names"] for rule in rules if rule["action"] == "SCMP_ACT_ALLOW")
    return {name for names in allowed for name in names}


def test_a_call_that_nobody_named_is_refused():
    read = json.loads(seccomp.PROFILE)
    assert read["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not any(arch["subArchitectures"] for arch in read["archMap"])
    assert not allowed_calls() & {
        *(
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "io_setup",
            "bpf",
            "userfaultfd",
        ),
        *("perf_event_open", "keyctl", "add_key", "request_key", "ptrace", "process_vm_readv"),
        *("process_vm_writev", "pidfd_getfd", "kcmp", "unshare", "setns", "mount", "umount2"),
        *("move_mount", "fsopen", "fsmount", "open_tree", "pivot_root", "chroot", "clone3"),
        *("open_by_handle_at", "name_to_handle_at", "init_module", "finit_module", "kexec_load"),
        *("reboot", "swapon", "iopl", "ioperm", "modify_ldt", "vmsplice", "fanotify_init"),
        *("syslog", "acct", "quotactl", "settimeofday", "clock_settime", "sethostname"),
    }


def test_another_profile_is_found_and_told_in_a_line():
    inspect = honest_inspect(a_job())
    inspect["HostConfig"]["SecurityOpt"] = ["no-new-privileges", 'seccomp={"defaultAction":"x"}']
    (line,) = a_job().differences(inspect)
    assert "seccomp=another:" in line
    assert len(line) < 250


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
