import socket

link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(1)
link.sendto(b"hostile", ("10.99.0.1", 7080))
tried("an answer from a private address", lambda: link.recv(10))
