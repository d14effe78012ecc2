import signal

print("refused a life after the script, if the container has ended", flush=True)
for is_loud in (True, False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            while True:
                os.write(1, b"still here\n") if is_loud else signal.sigtimedwait([], 0.1)
        os._exit(0)
os._exit(0)
