import signal

made = 0
print("refused by the end of this process, if that is the last line", flush=True)
try:
    while made < 5000:
        if os.fork() == 0:
            signal.pause()
        made += 1
except OSError as error:
    print(f"refused more than {made} processes: {error}", flush=True)
else:
    print("MANAGED", made, flush=True)
os.killpg(0, signal.SIGKILL)
