import socket

link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link.settimeout(1)
for host in ("255.255.255.255", "224.0.0.251", "239.255.255.250"):

    def ask(host=host):
        link.sendto(b"hostile", (host, 7080))
        return link.recv(10)

    tried(host, ask)
