import fcntl
import glob
import termios

for path in ["/dev/tty", "/dev/console", "/dev/ptmx", *glob.glob("/dev/pts/[0-9]*"), "/dev/tty0"]:

    def type_in(path=path):
        handle = os.open(path, os.O_RDWR)
        if path.endswith("ptmx"):
            raise OSError("a terminal of one's own is nobody else's")
        fcntl.ioctl(handle, termios.TIOCSTI, b"x")

    tried(f"to type into {path}", type_in)
