tried("init_module", lambda: call("init_module", b"x", 1, b""))
tried("finit_module", lambda: call("finit_module", 0, b"", 0))
tried("delete_module", lambda: call("delete_module", b"overlay", 0))
tried("kexec", lambda: call("kexec_load", 0, 0, 0, 0))
