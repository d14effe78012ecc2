for path in (
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf.d/hostile.conf",
    "/env/pyvenv.cfg",
    "/env/bin/python",
    "/opt/mlops/job_path/sitecustomize.py",
    "/opt/mlops/waiting_path/sitecustomize.py",
):
    tried(path, lambda: open(path, "a"))


def seen_by_launcher():
    os.environ["LD_PRELOAD"] = "/scratch/hostile.so"
    if b"hostile.so" not in open("/proc/1/environ", "rb").read():
        raise OSError("not in its variables")


tried("a library in PID 1", seen_by_launcher)
