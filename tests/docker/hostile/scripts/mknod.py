tried("the first disk", lambda: os.mknod("/scratch/disk", 0o60600, os.makedev(8, 0)))
tried("a virtual disk", lambda: os.mknod("/scratch/vda", 0o60600, os.makedev(254, 0)))
tried("the kernel's memory", lambda: os.mknod("/scratch/mem", 0o20600, os.makedev(1, 1)))
for name in ("mem", "kmem", "kmsg", "sda", "vda", "fuse", "kvm", "net/tun", "loop0"):
    tried(f"/dev/{name}", lambda: os.open(f"/dev/{name}", os.O_RDWR))
