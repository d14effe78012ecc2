def ring(flags):
    parameters = ctypes.create_string_buffer(120)
    ctypes.memmove(ctypes.addressof(parameters) + 8, flags.to_bytes(4, "little"), 4)
    return call("io_uring_setup", 8, parameters)


tried("a ring", lambda: ring(0))
tried("a ring with a thread of the kernel", lambda: ring(2))
