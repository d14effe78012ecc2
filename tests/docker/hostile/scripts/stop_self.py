import signal

print("refused by the end of this process, if that is the last line", flush=True)
while True:
    os.killpg(0, signal.SIGSTOP)
