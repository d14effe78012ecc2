import mmap

HUGE = 0x40000


def reserve():
    area = mmap.mmap(-1, 1024 * 1024 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGE)
    area[0] = 1
    return len(area)


tried("1 GiB of the host's huge pages", reserve)
tried("more of them", lambda: write("/proc/sys/vm/nr_hugepages", "100"))
