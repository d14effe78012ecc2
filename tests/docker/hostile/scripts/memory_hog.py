kept = []
print("refused by the end of this process, if that is the last line", flush=True)
while len(kept) < 4000:
    kept.append(b"x" * (1024 * 1024))
print("MANAGED", len(kept), "MiB", flush=True)
