import socket

tried(
    "another container by its name",
    lambda: socket.create_connection((os.environ["PEER_NAME"], 8080), 2),
)
