print("refused by the end of this process, if no line says otherwise", flush=True)
block = (b"x" * 1023 + b"\n") * 1024
for _ in range(1024):
    os.write(1, block)
print("MANAGED 1 GiB", flush=True)
