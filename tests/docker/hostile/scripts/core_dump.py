import glob
import resource
import signal

tried(
    "room for a core",
    lambda: resource.setrlimit(resource.RLIMIT_CORE, (2**30, resource.RLIM_INFINITY)),
)
os.chdir("/scratch")


def dump():
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    status = os.waitpid(child, 0)[1]
    if not os.WCOREDUMP(status) and not glob.glob("/scratch/core*"):
        raise OSError("no core")
    return status


tried("a core", dump)
