import glob

own = {str(os.getpid()), str(os.getppid()), "1", "self", "thread-self"}
seen = [path for path in glob.glob("/proc/[0-9]*") if os.path.basename(path) not in own]
print("MANAGED to see processes:" if seen else "refused processes of others:", seen)


def abstract():
    names = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
    if not names:
        raise OSError("none")
    return names


tried("abstract sockets of the host", abstract)


def shared():
    lines = open("/proc/sysvipc/shm").read().splitlines()[1:]
    if not lines:
        raise OSError("none")
    return lines


tried("shared memory of others", shared)
