import signal

print("refused by the end of this process, if that is the last line", flush=True)
catchable = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
for number in catchable:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, catchable)
while True:
    signal.pause()
