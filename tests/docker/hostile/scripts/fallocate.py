for folder in ("/tmp", "/scratch", "/dev/shm", "/dev", "/run", "/var/tmp", "/data", "/job"):

    def fill(folder=folder):
        handle = os.open(f"{folder}/big", os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(handle, 0, 2 * 1024**3)
        return handle

    tried(f"2 GiB in {folder}", fill)
