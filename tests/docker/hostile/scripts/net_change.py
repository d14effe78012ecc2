import fcntl
import socket
import struct

link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address = struct.pack(
    "16sH2s4s8s", b"eth0", socket.AF_INET, b"", socket.inet_aton("10.99.0.1"), b""
)
tried("another address", lambda: fcntl.ioctl(link, 0x8916, address))
tried(
    "a hardware address", lambda: fcntl.ioctl(link, 0x8924, struct.pack("16sH14s", b"eth0", 1, b""))
)
tried("all packets", lambda: fcntl.ioctl(link, 0x8914, struct.pack("16sh", b"eth0", 0x1143)))


def kept(level, option):
    link.setsockopt(level, option, 1)
    if link.getsockopt(level, option) != 1:
        raise OSError("it is not kept")


tried("a mark", lambda: kept(socket.SOL_SOCKET, 36))
tried("any source", lambda: kept(socket.SOL_IP, 19))
tried("a bridge", lambda: fcntl.ioctl(link, 0x89A0, b"hostile\0"))
for name in ("/proc/sys/net/ipv4/conf/all/forwarding", "/proc/sys/net/ipv4/ping_group_range"):
    tried(name, lambda: write(name, "0 1"))
