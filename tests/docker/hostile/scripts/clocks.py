import time

tried("settimeofday", lambda: call("settimeofday", (0).to_bytes(16, "little"), 0))
change = ctypes.create_string_buffer(208)
ctypes.memmove(change, (0x4001).to_bytes(4, "little"), 4)
tried("adjtimex", lambda: call("adjtimex", change))
tried("clock_adjtime", lambda: call("clock_adjtime", 0, change))
for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME):
    tried(f"clock {clock}", lambda: time.clock_settime(clock, 1))
for path in ("/dev/rtc", "/dev/rtc0", "/proc/self/timens_offsets"):
    tried(path, lambda: write(path, "monotonic 86400 0"))
