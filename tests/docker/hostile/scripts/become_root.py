import subprocess

tried("setuid", lambda: os.setuid(0))
tried("setgid", lambda: os.setgid(0))
tried("setgroups", lambda: os.setgroups([0]))
tried("chown", lambda: (open("/scratch/f", "w").close(), os.chown("/scratch/f", 0, 0)))


def by_program(program):
    done = subprocess.run([program, "-c", "id -u"], input=b"", capture_output=True, timeout=10)
    if done.stdout.strip() != b"0":
        raise OSError(done.stderr[:80] or done.stdout[:80])
    return done.stdout


for program in ("/bin/su", "/usr/bin/sudo", "/usr/bin/newgrp", "/usr/bin/chsh", "/bin/mount"):
    tried(program, lambda: by_program(program))


def set_uid_copy():
    import shutil

    shutil.copy("/bin/sh", "/scratch/sh")
    os.chmod("/scratch/sh", 0o6755)
    done = subprocess.run(
        ["/scratch/sh", "-p", "-c", "grep Uid /proc/self/status"], capture_output=True
    )
    if "\t0" not in done.stdout.decode():
        raise OSError(done.stdout)
    return done.stdout


tried("a set-user-id shell", set_uid_copy)
