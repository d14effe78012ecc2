import signal

made = 0
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
