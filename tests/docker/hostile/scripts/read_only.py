for path in (
    "/",
    "/etc",
    "/usr/bin",
    "/opt/mlops",
    "/env",
    "/job",
    "/platform",
    "/data",
    "/dev",
    "/proc",
    "/sys",
    "/var/tmp",
    "/run",
    "/home",
    "/root",
    "/store",
):
    tried(path, lambda: open(f"{path}/hostile", "w"))
tried("the script itself", lambda: open("/job/script.py", "a"))
tried("the launcher", lambda: open("/opt/mlops/launcher.py", "a"))
tried("a library", lambda: open(os.__file__, "a"))
tried("names", lambda: open("/etc/hosts", "a"))
tried("resolvers", lambda: open("/etc/resolv.conf", "a"))
