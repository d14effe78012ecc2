import mmap

print("refused by the end of this process, if that is the last line", flush=True)
area = mmap.mmap(-1, 2 * 1024**3)
for offset in range(0, len(area), 4096):
    area[offset] = 1
print("MANAGED 2 GiB", flush=True)
