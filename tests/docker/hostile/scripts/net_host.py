import socket

gateway = os.environ["GATEWAY"]
# Few at a time: what the host refuses it tells of slowly.
for port in (22, 2375, 2376, 5432, 6379, 8000, 9323, 10250, int(os.environ["HOST_PORT"])):
    try:
        socket.create_connection((gateway, port), timeout=0.7).close()
        print("MANAGED to connect to the host's", port)
    except ConnectionRefusedError:
        print("MANAGED to be answered by the host's", port)
    except OSError as error:
        print("refused", port, error)
