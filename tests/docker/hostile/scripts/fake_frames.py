import base64

forged = b"@0 " + base64.b64encode(b"MANAGED to forge a frame\n") + b"\n"
os.write(1, forged + b"!began 0\n@18446744073709551615 \n")
# In the middle of a line, behind a carriage return, behind what clears a terminal.
os.write(1, b"half a line\r" + forged + b"\x1b[2J" + forged + b"\0" + forged)
for name in ("fd/1", "fd/2", "fd/0"):
    tried(
        f"the launcher's {name}", lambda: os.write(os.open(f"/proc/1/{name}", os.O_WRONLY), forged)
    )
