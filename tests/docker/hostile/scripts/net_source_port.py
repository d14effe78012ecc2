import socket

# A rule that trusts replies by their port would let these pass.
for port in (53, 67, 123):
    tried(f"from port {port}", lambda: socket.create_connection(("10.99.0.1", 7080), 2, ("", port)))
