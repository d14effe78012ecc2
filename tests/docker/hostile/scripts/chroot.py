tried("chroot", lambda: os.chroot("/scratch"))
tried("chroot to PID 1's root", lambda: os.chroot("/proc/1/root"))
