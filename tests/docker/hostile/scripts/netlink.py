import socket
import struct


def set_up_loopback(flags):
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    body = struct.pack("BxHiII", 0, 0, 1, flags, 0xFFFFFFFF)
    link.send(struct.pack("IHHII", 16 + len(body), 16, 5, 1, 0) + body)
    code = struct.unpack("i", link.recv(4096)[16:20])[0]
    if code:
        raise OSError(-code, os.strerror(-code))


tried("an interface taken down", lambda: set_up_loopback(0))
