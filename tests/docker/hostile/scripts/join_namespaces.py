for name in ("mnt", "net", "pid", "uts", "ipc", "cgroup"):
    handle = (
        os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
        if os.access(f"/proc/1/ns/{name}", os.R_OK)
        else -1
    )
    tried(f"the {name} namespace of PID 1", lambda: call("setns", handle, 0))
