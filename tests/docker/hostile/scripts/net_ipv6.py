import socket

for host in ("fd00::1", "fe80::1%eth0", "ff02::1%eth0", "2001:db8::1", "::ffff:10.99.0.1"):
    tried(host, lambda: socket.create_connection((host, 7080), timeout=2))
