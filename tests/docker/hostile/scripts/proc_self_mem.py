import mmap

# As "Dirty COW" did: write to one's own copy of a read-only file, and look at the file.
for path in ("/job/script.py", os.__file__, "/opt/mlops/launcher.py", "/env/pyvenv.cfg"):

    def overwrite(path=path):
        with open(path, "rb") as file:
            before = file.read()
            area = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            address = int(
                next(
                    line for line in reversed(list(open("/proc/self/maps"))) if path in line
                ).split("-")[0],
                16,
            )
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(address)
                memory.write(b"hostile")
            del area
        if open(path, "rb").read() == before:
            raise OSError("a copy was written, the file is as it was")

    tried(path, overwrite)
