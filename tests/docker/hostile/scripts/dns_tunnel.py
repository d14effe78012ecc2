import socket

for name in ("example.com", "secret.data.example.com", "metadata.google.internal", "localhost.lan"):
    tried(f"the name {name}", lambda: socket.getaddrinfo(name, 80))
query = bytes.fromhex("abcd01000001000000000000") + b"\x06secret\x07example\x03com\0\0\x01\0\x01"
for host in (*filter(None, os.environ["RESOLVERS"].split(",")), "8.8.8.8", "1.1.1.1"):

    def ask(host=host):
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.settimeout(0.7)
        link.connect((host, 53))
        link.send(query)
        return link.recv(512)

    tried(f"{host} by UDP", ask)
    tried(f"{host} by TCP", lambda: socket.create_connection((host, 53), timeout=0.7))
