import socket

# The same addresses, written so that a filter of texts would miss them.
for host in (
    "0xa9fea9fe",
    "2852039166",
    "::ffff:169.254.169.254",
    "::ffff:10.99.0.1",
    "0251.0376.0251.0376",
):
    tried(host, lambda: socket.create_connection((host, 7080), timeout=2))
