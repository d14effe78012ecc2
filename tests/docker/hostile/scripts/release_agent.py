import glob

for kind in (b"cgroup", b"cgroup2"):
    for options in (b"rdma", b"memory", b"none,name=hostile", b""):
        tried(f"to mount {kind}", lambda: call("mount", b"none", b"/scratch", kind, 0, options))
tried("a cgroup namespace", lambda: call("unshare", 0x2000000))
tried("all namespaces", lambda: call("unshare", 0x2000000 | 0x10000000 | 0x20000))
for path in glob.glob("/sys/fs/cgroup/**/notify_on_release", recursive=True) or ["/sys/fs/cgroup"]:
    tried(path, lambda: write(path, "1"))
for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True) or ["/sys/fs/cgroup"]:
    tried(path, lambda: write(path, "1"))
