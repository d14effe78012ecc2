import threading

made, stop = 0, threading.Event()
print("refused by the end of this process, if that is the last line", flush=True)
try:
    while made < 5000:
        threading.Thread(target=stop.wait, daemon=True).start()
        made += 1
    print("MANAGED threads:", made)
except RuntimeError as error:
    print(f"refused more than {made} threads: {error}")
stop.set()
