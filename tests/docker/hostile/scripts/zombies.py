for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()


def left():
    import glob
    import time

    for _ in range(100):
        lines = []
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                lines.append(open(path).read().rpartition(")")[2].split())
            except OSError:
                continue
        dead = [line for line in lines if line[0] == "Z" and line[1] == "1"]
        if not dead:
            raise OSError("PID 1 took them in")
        time.sleep(0.05)
    return len(dead)


tried("to leave the dead behind", left)
