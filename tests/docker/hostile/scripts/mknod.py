for name, mode, device in (
    ("a disk", 0o60600, (8, 0)),
    ("a virtual disk", 0o60600, (254, 0)),
    ("the kernel's memory", 0o20600, (1, 1)),
):

    def make_and_open(mode=mode, device=device):
        path = f"/scratch/{device[0]}-{device[1]}"
        os.mknod(path, mode, os.makedev(*device))
        return os.read(os.open(path, os.O_RDONLY), 16)

    tried(name, make_and_open)
for name in ("mem", "kmem", "kmsg", "sda", "vda", "fuse", "kvm", "net/tun", "loop0"):
    tried(f"/dev/{name}", lambda: os.open(f"/dev/{name}", os.O_RDWR))
