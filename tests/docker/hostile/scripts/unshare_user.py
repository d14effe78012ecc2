for name, flag in (
    ("user", 0x10000000),
    ("mount", 0x20000),
    ("network", 0x40000000),
    ("pid", 0x20000000),
    ("uts", 0x4000000),
    ("ipc", 0x8000000),
    ("cgroup", 0x2000000),
):
    tried(f"a {name} namespace", lambda: call("unshare", flag))
