# Where this container's folders lie on the host is written in here; those beside must not be there.
sources = [line.split() for line in open("/proc/self/mountinfo")]
inside = {"/job", "/env", "/platform", "/data"}
for entry in sources:
    # Under gVisor every one of them says that it is the root.
    if entry[4] not in inside or entry[3] == "/":
        continue
    folder = entry[3]
    for path in (
        folder,
        os.path.dirname(folder),
        f"{entry[4]}/..{folder}",
        f"/proc/1/root{folder}",
    ):
        tried(path, lambda: os.listdir(path))
    parent = os.path.realpath(f"{entry[4]}/..")
    print("refused the folder beside" if parent == "/" else "MANAGED", entry[4])
for path in ("/var/lib/docker", "/work", "/srv", "/mnt", "/media", "/root"):

    def look(path=path):
        found = os.listdir(path)
        if not found:
            raise OSError("empty")
        return found

    tried(path, look)
