"""`python -m deploy run`, `test` and `manage`; `make` calls them."""

import argparse
import sys

from deploy.manage import manage
from deploy.run import run
from deploy.testing import test


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything; Ctrl-C ends it")
    commands.add_parser("test", help="run every test")
    managing = commands.add_parser("manage", help="manage.py in the installation that runs")
    managing.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command == "manage":
        return manage(arguments.words)
    return run() if arguments.command == "run" else test()


if __name__ == "__main__":
    sys.exit(main())
