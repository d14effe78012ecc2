"""Makes the spec of each kind of container; nothing outside this file sets a limit or a right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sandbox.container import (
    ENGINE_LOG_MB,
    HOST_NETWORK,
    NO_NETWORK,
    NO_RESOLVER,
    RUNC,
    SCRIPT_PATH,
    Kind,
    Limits,
    Mount,
    SandboxSpec,
)

# Where the build container looks for wheels of the operator's own.
WHEELS_INSIDE = "/wheels"
# Beside the output itself: the time and the marks around each line of the engine's record.
RECORD_LINE_BYTES = 128
SERVER_PORT = 8080
# One plugin of MLflow, which is no part of the environment (`image/job_path`).
JOB_PATH = "/opt/mlops/job_path"
# Without packages, without variables, no bytecode written: the launcher needs none of it, and a
# Python that skips them starts in half the time.
LAUNCHER_FLAGS = ("-S", "-E", "-B", "-u")
# What a probe is labelled with, whatever its sandbox: no job and no server of anybody's.
PROBE = "probe"
FIREWALL_LIMITS = Limits(memory_mb=64, cpus=1.0, pids=16, scratch_mb=1)


def job_spec(
    *,
    name: str,
    image: str,
    script_folder: Path,
    script_name: str,
    environment_folder: Path,
    platform_folder: Path,
    data_folder: Path,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    runtime: str,
    resolvers: Sequence[str],
    deadline_seconds: int,
    grace_seconds: int,
    log_bytes: int,
    log_hard_bytes: int,
    labels: Mapping[str, str],
    gpu_devices: Sequence[str] = (),
) -> SandboxSpec:
    """A container that runs one script once, under the launcher, which keeps its deadline.

    Of the output `log_bytes` are kept, half of them from its head and half from its tail; a script
    that prints more than `log_hard_bytes` is ended. `variables` hold no secret: what else the
    script needs comes over the container's input (`sandbox/order.py`), and nothing runs before.
    """
    command = _launcher(
        f"{SCRIPT_PATH}/{script_name}",
        deadline_seconds=deadline_seconds,
        grace_seconds=grace_seconds,
        log_bytes=log_bytes,
        log_hard_bytes=log_hard_bytes,
    )
    mounts = _script_mounts(
        script=script_folder,
        environment=environment_folder,
        platform=platform_folder,
        data=data_folder,
    )
    return SandboxSpec(
        kind=Kind.JOB,
        name=name,
        image=image,
        command=command,
        environment=tuple(sorted(job_environment(variables).items())),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.JOB, labels),
        engine_log_mb=record_mb(log_bytes, seconds=deadline_seconds + grace_seconds),
        resolvers=tuple(resolvers),
        takes_order=True,
        gpu_devices=tuple(gpu_devices),
    )


def _launcher(script: str, **options: int) -> tuple[str, ...]:
    """`image/run_job.py` and its options, which are named as they are here."""
    words = [("--" + name.replace("_", "-"), str(value)) for name, value in options.items()]
    pairs = (word for pair in words for word in pair)
    return ("/env/bin/python", *LAUNCHER_FLAGS, "/opt/mlops/run_job.py", *pairs, script)


def _script_mounts(
    *, script: Path, environment: Path, platform: Path, data: Path
) -> tuple[Mount, ...]:
    """All that a script sees of the host, whichever way its container came about."""
    return (
        Mount(script, SCRIPT_PATH),
        Mount(environment, "/env"),
        Mount(platform, "/platform"),
        Mount(data, "/data"),
    )


def job_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a script: those that are given, and the platform's own, which win."""
    return dict(_variables({**variables, "PYTHONPATH": JOB_PATH}))


def waiting_spec(
    *,
    name: str,
    image: str,
    script_folder: Path,
    environment_folder: Path,
    platform_folder: Path,
    data_folder: Path,
    variables: Mapping[str, str],
    network: str,
    resolvers: Sequence[str],
    limits: Limits,
    runtime: str,
    seconds_max: int,
    log_bytes: int,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A job's container before its job: `script_folder` is empty, `variables` hold no secret.

    All that locks a job down is the same. The order that it gets once names the script, which is
    in the folder by then, its variables, and its time, `seconds_max` at most.
    """
    mounts = _script_mounts(
        script=script_folder,
        environment=environment_folder,
        platform=platform_folder,
        data=data_folder,
    )
    return SandboxSpec(
        kind=Kind.WAITING,
        name=name,
        image=image,
        command=("/env/bin/python", "-u", "/opt/mlops/waiting_launcher.py"),
        environment=tuple(sorted(job_environment(variables).items())),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.WAITING, labels),
        engine_log_mb=record_mb(log_bytes, seconds=seconds_max),
        resolvers=tuple(resolvers),
        takes_order=True,
    )


def build_spec(
    *,
    name: str,
    image: str,
    command: Sequence[str],
    store_folder: Path,
    user: str,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    labels: Mapping[str, str],
    resolvers: Sequence[str] = (),
    wheels_folder: Path | None = None,
    runtime: str = RUNC,
) -> SandboxSpec:
    """A container that installs wheels into the environment store, its one writable folder.

    `wheels_folder` holds wheels of the operator's own, read-only.

    Cache and environments are one mount: across two mounts hard links fail and every file of an
    environment would be a copy.
    """
    return SandboxSpec(
        kind=Kind.BUILD,
        name=name,
        image=image,
        command=tuple(command),
        environment=_variables(variables),
        user=user,
        mounts=(
            Mount(store_folder, "/store", read_only=False),
            *([Mount(wheels_folder, WHEELS_INSIDE)] if wheels_folder else []),
        ),
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.BUILD, labels),
        resolvers=tuple(resolvers),
    )


def server_spec(
    *,
    name: str,
    image: str,
    model_folder: Path,
    environment_folder: Path,
    platform_folder: Path,
    variables: Mapping[str, str],
    network: str,
    limits: Limits,
    runtime: str,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A container that loads one model and answers predictions on port 8080 of its own address."""
    command = (
        "/env/bin/python",
        "-u",
        "/opt/mlops/model_server.py",
        "--model",
        "/model",
        "--port",
        str(SERVER_PORT),
    )
    mounts = _model_mounts(
        model=model_folder, environment=environment_folder, platform=platform_folder
    )
    return SandboxSpec(
        kind=Kind.SERVER,
        name=name,
        image=image,
        command=command,
        environment=_variables(variables),
        user="runner",
        mounts=mounts,
        network=network,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.SERVER, labels),
        resolvers=(NO_RESOLVER,),
    )


def batch_spec(
    *,
    name: str,
    image: str,
    arguments: Sequence[str],
    model_folder: Path,
    input_folder: Path,
    environment_folder: Path,
    platform_folder: Path,
    variables: Mapping[str, str],
    limits: Limits,
    runtime: str,
    output_bytes: int,
    labels: Mapping[str, str],
) -> SandboxSpec:
    """A container that loads one model, predicts one file, and ends.

    It has no network and nothing that it can write to but its own memory: its answers are its
    output, which the engine records within a bound. `arguments` are those of
    `image/batch_predict.py`.
    """
    mounts = _model_mounts(
        model=model_folder, environment=environment_folder, platform=platform_folder
    )
    return SandboxSpec(
        kind=Kind.BATCH,
        name=name,
        image=image,
        command=("/env/bin/python", "-u", "/opt/mlops/batch_predict.py", *arguments),
        environment=_variables(variables),
        user="runner",
        mounts=(*mounts, Mount(input_folder, "/data")),
        network=NO_NETWORK,
        limits=limits,
        runtime=runtime,
        labels=_labels(Kind.BATCH, labels),
        engine_log_mb=batch_record_mb(output_bytes),
    )


def _model_mounts(*, model: Path, environment: Path, platform: Path) -> tuple[Mount, ...]:
    """All that a model sees of the host, whatever it is asked for."""
    return (
        Mount(model, "/model"),
        Mount(environment, "/env"),
        Mount(platform, "/platform"),
    )


def batch_record_mb(output_bytes: int) -> int:
    """So much in one file of the engine that none of an output within its bound is ever dropped.

    It comes in base64, in lines of which the engine keeps pieces of 16 KiB; beside it there is room
    for what the model prints.
    """
    record = output_bytes * 4 // 3
    record += record // (16 * 1024) * RECORD_LINE_BYTES
    return math.ceil(record / 1024**2) + ENGINE_LOG_MB


def record_mb(log_bytes: int, *, seconds: int) -> int:
    """So much of a job's output in one file of the engine that none of it is ever dropped.

    The launcher sends 7/4 of the quota (with its samples, and twice a tail) in base64, at most 50
    lines a second.
    """
    record = log_bytes * 7 // 3 + seconds * 50 * RECORD_LINE_BYTES
    return max(ENGINE_LOG_MB, math.ceil(record / 1024**2))


def firewall_spec(
    *, name: str, image: str, command: Sequence[str], rules: str, labels: Mapping[str, str]
) -> SandboxSpec:
    """A container that writes `$RULES` into the host's firewall and ends.

    Root, since that right is nobody else's, but with this one right and nothing mounted.
    """
    return SandboxSpec(
        kind=Kind.FIREWALL,
        name=name,
        image=image,
        command=tuple(command),
        environment=_variables({"RULES": rules}),
        user="0:0",
        mounts=(),
        network=HOST_NETWORK,
        limits=FIREWALL_LIMITS,
        labels=_labels(Kind.FIREWALL, labels),
    )


def probe_spec(subject: SandboxSpec, *, command: Sequence[str]) -> SandboxSpec:
    """The very sandbox of a job or a server, in which our probe runs in place of its own work."""
    labels = {**dict(subject.labels), "mlops.kind": PROBE}
    return replace(
        subject,
        command=tuple(command),
        labels=tuple(sorted(labels.items())),
        takes_order=False,
    )


def _variables(variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The given ones win over nothing that the platform needs: HOME and PYTHON* are ours."""
    ours = {"HOME": "/scratch", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return tuple(sorted({**variables, **ours}.items()))


def _labels(kind: Kind, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**labels, "mlops.kind": str(kind)}.items()))
