import socket

# Of a job that asked for no network: everything but MLflow's port.
gateway, peer = os.environ["GATEWAY"], os.environ["PEER"]
targets = [(gateway, int(os.environ["HOST_PORT"])), (peer, 8080)]
targets += [(host, 7080) for host in ("169.254.169.254", "10.99.0.1", "198.51.100.7", "::1")]
for target in targets:
    tried(target, lambda: socket.create_connection(target, timeout=0.7))


def datagram():
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.settimeout(0.7)
    link.connect(("198.51.100.7", 7080))
    link.send(b"hostile")
    return link.recv(10)


tried("a datagram to the internet", datagram)
