#!/usr/bin/env python
"""The entry point of Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line

from registry.sources import PLATFORM, coming_from, shell

# What these do, they do for the platform; any other command is somebody's.
PROCESSES = ("work", "supervise")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlops_site.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    with coming_from(PLATFORM if command in PROCESSES else shell()):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
