"""What is known of scripts of the corpus: how they may end, and what they manage without harm.

A script that is not named here is packed with others, and manages nothing under any runtime.
"""

from collections.abc import Mapping
from dataclasses import dataclass

KILLED, KILLED_BY_LAUNCHER = 137, 169
# gVisor itself, when the host's limit of processes keeps it from going on.
GVISOR_ENDED = 2


@dataclass(frozen=True)
class Alone:
    """A script that ends its container, or fills it: it gets one of its own.

    `codes` are the container's possible exit codes, `seconds` the deadline.
    """

    codes: frozenset[int]
    seconds: int = 90


def _alone(*codes: int, seconds: int = 90) -> Alone:
    return Alone(codes=frozenset(codes), seconds=seconds)


ALONE: Mapping[str, Alone] = {
    "deep_folders": _alone(0, 1, 124, KILLED, KILLED_BY_LAUNCHER, seconds=10),
    "double_fork": _alone(0),
    "endless_line": _alone(226),
    "forged_end": _alone(226),
    "fork_bomb": _alone(GVISOR_ENDED, KILLED, KILLED_BY_LAUNCHER),
    "ignore_term": _alone(124, seconds=3),
    "inodes": _alone(0, 124, KILLED, KILLED_BY_LAUNCHER, seconds=10),
    # Under gVisor a container's process may end its own PID 1; it ends itself with it.
    "kill_everybody": _alone(0, KILLED, KILLED_BY_LAUNCHER),
    "kill_first": _alone(0, KILLED),
    "memory_hog": _alone(KILLED, KILLED_BY_LAUNCHER),
    "output_flood": _alone(226),
    "pipes": _alone(0, KILLED, KILLED_BY_LAUNCHER),
    "shared_memory": _alone(KILLED, KILLED_BY_LAUNCHER),
    "starve_first": _alone(0, 1, GVISOR_ENDED, KILLED, KILLED_BY_LAUNCHER),
    "stop_self": _alone(124, seconds=3),
    "threads": _alone(0, 124, GVISOR_ENDED, KILLED, KILLED_BY_LAUNCHER, seconds=10),
}
# They go on for about as long as they may; the first to be started.
TO_THEIR_DEADLINE = frozenset({"deep_folders", "inodes", "threads"})
ENDED_BY_MEMORY = frozenset({"memory_hog", "shared_memory"})
# Of jobs that asked for no network.
OFFLINE = frozenset({"dns_tunnel", "net_none"})

# Those that do little but wait for answers which must not come: they run together.
WAITING = frozenset(
    {
        "internal_names",
        "net_broadcast",
        "net_disguised",
        "net_host",
        "net_host_udp",
        "net_ipv6",
        "net_metadata",
        "net_peer",
        "net_peer_name",
        "net_private",
        "net_resolver_ports",
        "net_source_port",
        "net_udp_private",
    }
)

# What is open, and told in `docs/SECURITY.md`: whoever closes one takes it out there too.
OPEN: Mapping[str, tuple[str, ...]] = {
    # Old engines' own filter of system calls knows nothing of it.
    "io_uring": ("a ring", "a ring with a thread of the kernel"),
    # The host's own default, at which the job's memory limit still comes first.
    "oom_score": ("self 0", "self 0, the old way"),
    # It ends its own container; the deadline is kept from outside as well.
    "starve_first": ("less CORE", "less NOFILE", "less AS", "less FSIZE", "less CPU"),
}
# What a script manages of gVisor's own kernel, which is its container's alone: the host sees none
# of it, which the tests of the outside prove.
_NAMESPACES = ("user", "mount", "network", "pid", "uts", "ipc", "cgroup")
INSIDE_GVISOR: Mapping[str, tuple[str, ...]] = {
    "clone": tuple(f"a process in a {name} namespace of its own" for name in ("user", "mount")),
    # It heeds no PR_SET_DUMPABLE: a script can write into its own log, past the launcher.
    "fake_frames": ("the launcher's fd/1", "the launcher's fd/2"),
    # Memory as any other, which counts.
    "huge_pages": ("1 GiB of the host's huge pages",),
    "inject": ("PID 1's fd",),
    "machine": ("nice",),
    "mknod": ("/dev/fuse",),
    "oom_score": ("self -1", "self -500", "self -1000"),
    "own_rights": ("a user namespace",),
    "priorities": ("nice -1",),
    "proc_writes": ("a score of -1 for self", "a score of -1000 for self"),
    "ptrace_first": ("the variables of PID 1",),
    # A few lines that it made up itself.
    "rare_calls": ("the kernel's log",),
    "release_agent": ("a cgroup namespace", "all namespaces"),
    # `noexec` holds for programs, not for what is mapped.
    "run_from_tmp": ("code mapped from /tmp",),
    # Those that sleep cost it no task of the host; memory bounds them.
    "threads": ("threads",),
    "unshare_user": tuple(f"a {name} namespace" for name in _NAMESPACES),
}


def harmless(name: str, runtime: str) -> tuple[str, ...]:
    """What lines of a script that managed something may begin with."""
    inside = INSIDE_GVISOR.get(name, ()) if runtime != "runc" else ()
    return tuple(f"MANAGED {what}:" for what in (*OPEN.get(name, ()), *inside))
