import resource

for name in ("NOFILE", "CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"):
    limit = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(limit)[1]
    if hard == resource.RLIM_INFINITY:
        print(f"refused nothing: {name} has no bound of its own")
        continue
    tried(f"a higher {name}", lambda: resource.setrlimit(limit, (hard + 1, hard + 1)))
    tried(f"a higher {name} of PID 1", lambda: resource.prlimit(1, limit, (hard + 1, hard + 1)))
