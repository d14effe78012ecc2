import time

tried("reboot", lambda: call("reboot", 0xFEE1DEAD, 672274793, 0x1234567, 0))
tried("host name", lambda: call("sethostname", b"mine", 4))
tried("swap", lambda: call("swapon", b"/scratch/swap", 0))
tried("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
tried("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
tried("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
