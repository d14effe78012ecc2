"""`manage.py sandbox check`: tries the sandbox on this machine and prints a table.

Exit code 1 when anything is not as it must be. It needs the variables of a worker.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from sandbox.check import Row
from sandbox.engine import EngineError, EngineUnavailable
from sandbox.firewall import AddressInvalid, RulesNotInstalled
from training import engine_room
from training.services.sandbox_check import check_sandbox

HEADINGS = ("", "container", "what", "wanted", "got")


class Command(BaseCommand):
    help = "Tries every part of the sandbox on this machine: fields, limits, addresses."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("act", choices=["check"], help="the one thing there is to do")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rows = check_sandbox(engine_room.engine())
        except (EngineError, EngineUnavailable) as error:
            raise CommandError(f"Docker failed: {error}") from error
        except (RulesNotInstalled, AddressInvalid) as error:
            raise CommandError(f"The host's firewall did not take the rules: {error}") from error
        self.stdout.write(_table(rows))
        failed = sum(not row.passed for row in rows)
        self.stdout.write(f"{len(rows) - failed} of {len(rows)} are as they must be.")
        if failed:
            sys.exit(1)


def _table(rows: Sequence[Row]) -> str:
    lines = [HEADINGS]
    lines += [
        ("ok" if row.passed else "FAIL", row.subject, row.what, row.wanted, row.got) for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
