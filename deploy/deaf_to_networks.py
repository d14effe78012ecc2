"""Runs a program that never hears of changes of the machine's networks: `python FILE PROGRAM …`.

Chromium drops what it is connecting to when an address of the machine comes or goes, as one does
with every container that runs beside (ERR_NETWORK_CHANGED). Where the kernel tells it nothing, it
takes the networks as they are.
"""

import errno
import os
import socket
import sys

import pyseccomp


def run(program: list[str]) -> None:
    """In the place of this process."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    netlink = pyseccomp.Arg(0, pyseccomp.EQ, socket.AF_NETLINK)
    rules.add_rule(pyseccomp.ERRNO(errno.EAFNOSUPPORT), "socket", netlink)
    rules.load()
    os.execvp(program[0], program)  # noqa: S606 - one program of ours starts another


if __name__ == "__main__":
    run(sys.argv[1:])
