import glob
import sysconfig

packages = sysconfig.get_paths()["purelib"]
for name in ("hostile.pth", "sitecustomize.py", "usercustomize.py", "__pycache__/x.pyc", "os.py"):
    for folder in (packages, os.path.dirname(os.__file__), "/env/bin", "/platform"):
        tried(f"{folder}/{name}", lambda: open(f"{folder}/{name}", "w"))
module = glob.glob(f"{packages}/**/__init__.py", recursive=True)[0]
tried("another mode", lambda: os.chmod(module, 0o777))
tried("another time", lambda: os.utime(module, (0, 0)))
tried("another name", lambda: os.rename(module, f"{module}.old"))
tried("no file", lambda: os.unlink(module))
tried("no length", lambda: os.truncate(module, 0))
tried("an attribute", lambda: os.setxattr(module, "user.hostile", b"1"))
tried("a second name", lambda: os.link(module, "/scratch/second"))
tried("a link", lambda: os.symlink("/scratch", f"{packages}/hostile"))
tried("another owner", lambda: os.chown(module, os.getuid(), os.getgid()))
