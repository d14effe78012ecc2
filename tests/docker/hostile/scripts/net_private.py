import socket

for host in ("10.99.0.1", "10.99.0.2"):
    tried(host, lambda: socket.create_connection((host, 7080), timeout=2))
