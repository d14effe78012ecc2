# Root in a user namespace of one's own, where the kernel gives one, and what that is good for.
import glob
import socket

tried("a user namespace", lambda: call("unshare", 0x10000000 | 0x20000 | 0x40000000))
for path in ("/", "/job", "/env", "/platform", "/data", "/proc/sys", "/sys"):

    def remount(path=path):
        call("mount", 0, path.encode(), 0, 32 | 4096, 0)
        open(f"{path}/hostile", "w").close()

    tried(f"to write below {path}", remount)
tried("the host's files", lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))
tried("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
tried("raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("a module", lambda: call("init_module", b"x", 1, b""))
tried("to reboot", lambda: call("reboot", 0xFEE1DEAD, 672274793, 0x1234567, 0))
for path in glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True):
    tried(path, lambda: write(path, "/scratch/agent"))
tried("a private address", lambda: socket.create_connection(("10.99.0.1", 7080), timeout=0.7))
