tried("attaching to PID 1", lambda: call("ptrace", 16, 1, 0, 0))
tried("the memory of PID 1", lambda: os.open("/proc/1/mem", os.O_RDWR))
tried("the variables of PID 1", lambda: open("/proc/1/environ", "rb").read(10))
