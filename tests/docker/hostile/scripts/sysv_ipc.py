# The host made one of each, for everybody; keys and sizes are the harness's.
key = int(os.environ["IPC_KEY"])
tried("the host's shared memory", lambda: call("shmget", key, 0, 0))
tried("the host's message queue", lambda: call("msgget", key, 0))
tried("the host's semaphores", lambda: call("semget", key, 1, 0))
for number in range(8):
    tried(
        f"shared memory {number}",
        lambda: call("shmctl", number, 2, ctypes.create_string_buffer(256)),
    )
