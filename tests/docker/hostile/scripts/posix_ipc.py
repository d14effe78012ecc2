name = os.environ["IPC_NAME"]
tried("the host's message queue", lambda: call("mq_open", name.encode(), os.O_RDWR, 0, None))
tried("the host's shared memory", lambda: open(f"/dev/shm/{name}", "rb"))
tried("the host's queues as files", lambda: open(f"/dev/mqueue/{name}", "rb"))
