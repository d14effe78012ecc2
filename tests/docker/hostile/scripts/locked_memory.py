import mmap

area = mmap.mmap(-1, 128 * 1024 * 1024)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
tried("128 MiB locked", lambda: call("mlock", ctypes.c_void_p(address), ctypes.c_size_t(len(area))))
tried("all of it locked", lambda: call("mlockall", 3))
