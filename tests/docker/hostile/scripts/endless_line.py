print("refused by the end of this process, if no line says otherwise", flush=True)
block = b"x" * 1024 * 1024
for _ in range(1024):
    os.write(1, block)
print("\nMANAGED 1 GiB without an end of line", flush=True)
