import glob

remote = (ctypes.c_uint64 * 2)(0x400000, 8)
local = (ctypes.c_uint64 * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
tried("to read PID 1's memory", lambda: call("process_vm_readv", 1, local, 1, remote, 1, 0))
tried("to write PID 1's memory", lambda: call("process_vm_writev", 1, local, 1, remote, 1, 0))
tried("to seize PID 1", lambda: call("ptrace", 0x4206, 1, 0, 0))
tried("a file of PID 1", lambda: call("pidfd_getfd", call("pidfd_open", 1, 0), 1, 0))
tried("to compare with PID 1", lambda: call("kcmp", os.getpid(), 1, 1, 0, 0))
for name in ("mem", "fd", "map_files", "root", "cwd", "syscall", "stack", "clear_refs"):

    def look(name=name):
        path = f"/proc/1/{name}"
        return os.listdir(path) if os.path.isdir(path) else os.open(path, os.O_RDWR)

    tried(f"PID 1's {name}", look)
print("refused files of PID 1:", glob.glob("/proc/1/fd/*"))
