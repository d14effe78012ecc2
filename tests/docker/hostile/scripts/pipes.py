import fcntl

print("refused by a bound, or by the end of this process", flush=True)

tried("a pipe of 1 GiB", lambda: fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1024**3))


def fill():
    kept = []
    while len(kept) < 2000:
        ends = os.pipe()
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1024 * 1024)
        os.set_blocking(ends[1], False)
        os.write(ends[1], bytes(1024 * 1024))
        kept.append(ends)
    return len(kept)


tried("2 GB in pipes", fill)
