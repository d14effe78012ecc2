for path in (
    "kernel/uevent_helper",
    "power/state",
    "kernel/mm/transparent_hugepage/enabled",
    "class/net/eth0/mtu",
    "fs/cgroup/memory/memory.limit_in_bytes",
    "fs/cgroup/memory.max",
    "fs/cgroup/pids/pids.max",
    "fs/cgroup/pids.max",
    "fs/cgroup/cgroup.procs",
    "module/kernel/parameters/panic",
):
    tried(f"/sys/{path}", lambda: write(f"/sys/{path}", "max"))
