"""Runs in a build container: requirements in, a compiled read-only environment folder out.

Standard library only. Installs wheels and nothing else, since a source distribution would run its
own code here, beside the cache that every environment shares. Prints what it does; exit codes say
which step failed (2 resolve, 3 install, 4 compile).
"""

import argparse
import subprocess
import sys
from pathlib import Path

UV = "/opt/mlops/uv"
CACHE = "/store/cache"
RESOLVE_FAILED, INSTALL_FAILED, COMPILE_FAILED = 2, 3, 4
COMMON = ["--quiet", "--no-config", "--cache-dir", CACHE]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["resolve", "install", "platform"])
    parser.add_argument("folder", type=Path, help="a folder below /store/building, made by us")
    arguments = parser.parse_args()
    steps = {"resolve": resolve, "install": install, "platform": install_platform}
    return steps[arguments.step](arguments.folder)


def resolve(folder: Path) -> int:
    """`requirements.in` and `constraints.in` become `lock.txt`: exact versions, nothing else."""
    command = [UV, "pip", "compile", *COMMON, "--only-binary", ":all:", "--no-header"]
    command += ["--no-annotate", "--python", sys.executable]
    command += ["--constraint", str(folder / "constraints.in")]
    command += ["--output-file", str(folder / "lock.txt"), str(folder / "requirements.in")]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    return RESOLVE_FAILED if done.returncode else 0


def install(folder: Path) -> int:
    """`lock.txt` becomes a relocatable environment in `environment/`, to be mounted at /env."""
    environment = folder / "environment"
    lock = folder / "lock.txt"
    packages = [line for line in lock.read_text().splitlines() if line.strip()]
    print(f"Installing {len(packages)} packages", flush=True)
    make = [UV, "venv", *COMMON, "--relocatable", "--python", sys.executable, str(environment)]
    fill = [UV, "pip", "sync", *COMMON, "--only-binary", ":all:", "--link-mode", "hardlink"]
    fill += ["--python", str(environment / "bin" / "python"), str(lock)]
    for command in (make, fill):
        if subprocess.run(command).returncode:
            return INSTALL_FAILED
    print("Compiling", flush=True)
    return _compile(environment / "lib", shown_as="/env/lib")


def install_platform(folder: Path) -> int:
    """`requirements.in` becomes a plain folder for the end of `sys.path`, mounted at /platform."""
    target = folder / "environment"
    command = [UV, "pip", "install", *COMMON, "--only-binary", ":all:", "--link-mode", "hardlink"]
    command += ["--python", sys.executable, "--target", str(target)]
    command += ["--requirements", str(folder / "requirements.in")]
    if subprocess.run(command).returncode:
        return INSTALL_FAILED
    return _compile(target, shown_as="/platform")


def _compile(folder: Path, *, shown_as: str) -> int:
    """Bytecode now, or every job pays for it: the folder is mounted read-only.

    `-I -S`: an environment's `.pth` files would run code of its packages here. Files that are not
    valid for this Python (templates, test data) are no failure: their import is.
    """
    command = [sys.executable, "-I", "-S", "-m", "compileall", "-qq", "-j", "0"]
    command += ["-s", str(folder), "-p", shown_as, str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if "Traceback" in done.stderr:
        print(done.stderr, file=sys.stderr)
        return COMPILE_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
