"""`python -m deploy run` and `python -m deploy test`; `make` calls them."""

import argparse
import sys

from deploy.run import run
from deploy.testing import test


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy")
    parser.add_argument("command", choices=["run", "test"])
    arguments = parser.parse_args()
    return run() if arguments.command == "run" else test()


if __name__ == "__main__":
    sys.exit(main())
