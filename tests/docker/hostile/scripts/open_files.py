import resource


def many():
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(100_000)]


tried("a hundred thousand open files", many)
tried("a higher limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1_000_000, 1_000_000)))
tried("core files", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))
tried("locked memory", lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (2**40, 2**40)))
