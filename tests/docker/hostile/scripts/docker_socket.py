import socket

for path in (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/systemd/private",
    "/run/dbus/system_bus_socket",
):
    tried(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
for line in open("/proc/self/mountinfo"):
    if ".sock" in line:
        print("MANAGED a mounted socket:", line)
