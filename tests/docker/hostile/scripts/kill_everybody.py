import signal

print("refused what the end of the container does not tell", flush=True)
if os.fork() == 0:
    signal.pause()
os.kill(-1, signal.SIGKILL)
print("refused to end PID 1:", open("/proc/1/stat").read().split()[1], flush=True)
