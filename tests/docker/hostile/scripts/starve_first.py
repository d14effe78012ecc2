# PID 1 is the launcher's, of the same user, who may take from it; nobody else loses by it.
import resource

print("refused what the end of the container does not tell", flush=True)
for name in ("CORE", "NOFILE", "AS", "FSIZE", "CPU"):
    tried(f"less {name}", lambda: resource.prlimit(1, getattr(resource, f"RLIMIT_{name}"), (0, 0)))
os.write(1, b"x" * 1024 * 1024 + b"\n")
