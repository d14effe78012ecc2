written = 0


def fill():
    global written
    with open("/dev/shm/fill", "wb", buffering=0) as file:
        while written < 1024:
            written += file.write(bytes(1024 * 1024)) // (1024 * 1024)
    return written


tried("1 GiB in /dev/shm", fill)
