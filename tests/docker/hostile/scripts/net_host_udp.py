import socket

link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(1)
link.connect((os.environ["GATEWAY"], int(os.environ["HOST_PORT"])))
link.send(b"hostile")
tried("an answer by UDP", lambda: link.recv(10))
