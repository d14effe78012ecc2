import socket

tried("raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("raw TCP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
tried("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
tried("vsock to the hypervisor", lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, 1024)))
