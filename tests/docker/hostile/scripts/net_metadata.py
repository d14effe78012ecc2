import socket

for host, port in (("169.254.169.254", 7080), ("169.254.169.254", 80)):
    tried(host, lambda: socket.create_connection((host, port), timeout=2))
