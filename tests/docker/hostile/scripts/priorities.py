tried("real time input and output", lambda: call("ioprio_set", 1, 0, 1 << 13))
for policy in (os.SCHED_FIFO, os.SCHED_RR):
    tried(f"policy {policy}", lambda: os.sched_setscheduler(0, policy, os.sched_param(1)))
tried("nice -1", lambda: os.nice(-1) and None)
tried("every processor of the host", lambda: write("/proc/irq/0/smp_affinity", "1"))
deadline = (48).to_bytes(4, "little") + (6).to_bytes(4, "little") + bytes(16)
deadline += b"".join(value.to_bytes(8, "little") for value in (10**7, 10**8, 10**8))
tried("deadlines", lambda: call("sched_setattr", 0, deadline, 0))
