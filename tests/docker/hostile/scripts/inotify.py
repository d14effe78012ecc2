made = []
try:
    while len(made) < 4500:
        handle = _LIBC.inotify_init1(0)
        if handle < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        made.append(handle)
    print("MANAGED", len(made), "watchers")
except OSError as error:
    print(f"refused more than {len(made)} watchers: {error}")
