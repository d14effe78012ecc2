import socket

peer = os.environ["PEER"]
for port in (8080, 22):
    try:
        socket.create_connection((peer, port), timeout=2)
        print("MANAGED to connect to another container")
    except ConnectionRefusedError:
        print("MANAGED to be answered by another container")
    except OSError as error:
        print("refused", error)
