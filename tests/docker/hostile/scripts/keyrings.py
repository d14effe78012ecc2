tried("add_key", lambda: call("add_key", b"user", b"k", b"secret", 6, -3))
tried("request_key", lambda: call("request_key", b"user", b"k", 0, -3))
tried("keyctl", lambda: call("keyctl", 0, -3, 1))
