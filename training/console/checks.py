"""How a container was locked down, as a checklist: the engine's own words, and what they mean.

Before a script begins it was compared field by field with what was asked for; a container with any
difference is never started. Here each line is judged once more by what was read back alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.console import size

MIB = 1024 * 1024
Readback = Mapping[str, Any]
ROOT = ("", "0", "root")


@dataclass(frozen=True)
class Check:
    """One line: `holds` is False for what no container of a job may have."""

    what: str
    told: str
    holds: bool


def checks_of(readback: Readback) -> list[Check]:
    """None where nothing was read back."""
    return [check(readback) for check in CHECKS] if readback else []


def _user(readback: Readback) -> Check:
    user = str(readback.get("User") or "")
    return Check("Does not run as root", user or "root", user.partition(":")[0] not in ROOT)


def _file_system(readback: Readback) -> Check:
    return _yes("Root file system is read-only", readback.get("ReadonlyRootfs") is True)


def _capabilities(readback: Readback) -> Check:
    dropped, added = _list(readback, "CapDrop"), _list(readback, "CapAdd")
    holds = "ALL" in dropped and not added
    return Check("Has no capabilities", "all dropped" if holds else _told(added), holds)


def _privileged(readback: Readback) -> Check:
    return _yes("Is not privileged", readback.get("Privileged") is False)


def _new_privileges(readback: Readback) -> Check:
    options = _list(readback, "SecurityOpt")
    holds = any(option.startswith("no-new-privileges") for option in options)
    return _yes("Cannot gain privileges", holds)


def _system_calls(readback: Readback) -> Check:
    filters = [one for one in _list(readback, "SecurityOpt") if one.startswith("seccomp=")]
    told = _told([one.removeprefix("seccomp=") for one in filters])
    return Check("System calls are filtered", told, filters != [] and told != "unconfined")


def _processes(readback: Readback) -> Check:
    most = _number(readback, "PidsLimit")
    return Check("Processes are bounded", f"at most {most}" if most > 0 else "no limit", most > 0)


def _memory(readback: Readback) -> Check:
    most, with_swap = _number(readback, "Memory"), _number(readback, "MemorySwap")
    holds = 0 < most == with_swap
    told = f"{size(most / MIB)}, {'no swap' if holds else 'with swap'}" if most > 0 else "no limit"
    return Check("Memory is bounded", told, holds)


def _cpus(readback: Readback) -> Check:
    quota, period = _number(readback, "CpuQuota"), _number(readback, "CpuPeriod")
    holds = quota > 0 and period > 0
    return Check("CPU is bounded", f"{quota / period:g} CPUs" if holds else "no limit", holds)


def _network(readback: Readback) -> Check:
    mode = str(readback.get("NetworkMode") or "unknown")
    return Check("Has a network of its own", mode, mode not in ("host", "unknown", "default"))


def _namespaces(readback: Readback) -> Check:
    shared = [
        name.removesuffix("Mode")
        for name in ("IpcMode", "PidMode", "UTSMode", "UsernsMode")
        if str(readback.get(name) or "").partition(":")[0] in ("host", "container")
    ]
    return Check("Shares no namespace with the host", _told(shared), not shared)


def _mounts(readback: Readback) -> Check:
    mounts = [one for one in readback.get("Mounts") or [] if isinstance(one, Mapping)]
    writable = [str(one.get("target")) for one in mounts if one.get("read_only") is not True]
    told = _told(writable) if writable else _told([str(one.get("target")) for one in mounts])
    return Check("What is mounted is read-only", told, not writable)


def _devices(readback: Readback) -> Check:
    devices = readback.get("Devices") or []
    asked = len(readback.get("DeviceRequests") or [])
    told = "GPUs that were asked for" if asked else "none"
    return Check("Devices of the host", "some" if devices else told, not devices)


CHECKS: Sequence[Callable[[Readback], Check]] = (
    *(_user, _file_system, _capabilities, _privileged, _new_privileges, _system_calls),
    *(_processes, _memory, _cpus, _network, _namespaces, _mounts, _devices),
)


def _yes(what: str, holds: bool) -> Check:  # noqa: FBT001 - the fact itself, not a choice
    return Check(what, "yes" if holds else "no", holds)


def _list(readback: Readback, name: str) -> list[str]:
    return [str(value) for value in readback.get(name) or []]


def _number(readback: Readback, name: str) -> int:
    value = readback.get(name)
    return value if isinstance(value, int) else 0


def _told(values: Sequence[str]) -> str:
    return ", ".join(values) or "none"
