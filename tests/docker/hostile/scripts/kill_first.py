import signal

print("refused what the end of the container does not tell", flush=True)
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    os.kill(1, number)
state = open("/proc/1/stat").read().split()[2]
print("refused PID 1 stopped: it is", state) if state not in "TZ" else print(
    "MANAGED PID 1 stopped"
)
