import socket

# A name may be known; what it names must not answer. The harness's container is one of them.
names = [os.environ["PEER_NAME"], "host.docker.internal", "gateway.docker.internal", "mlflow"]
names += ["postgres", "redis", "registry", "kubernetes.default.svc", "metadata.google.internal"]
for name in names:
    for port in (80, 8080):
        try:
            socket.create_connection((name, port), timeout=0.7).close()
            print("MANAGED to connect to", name)
        except ConnectionRefusedError:
            print("MANAGED to be answered by", name)
        except OSError as error:
            print("refused", name, error)
