tried("chroot", lambda: os.chroot("/scratch"))
