"""`manage.py document_reasons`: prints the table of ends into the guide; `--check` only looks."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from training.reference import reasons_table

GUIDE = Path(settings.BASE_DIR) / "docs" / "SCRIPT_TRAINING_INFERENCE.md"
BEGIN, END = "<!-- reasons: manage.py document_reasons -->\n", "<!-- /reasons -->"


class Command(BaseCommand):
    help = "Brings the table of reasons in the guide up to date with the code."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="change nothing; fail if it would")

    def handle(self, *args: Any, **options: Any) -> None:
        text = GUIDE.read_text()
        wanted = documented(text)
        if text == wanted:
            return
        if options["check"]:
            raise CommandError(f"{GUIDE.name} is not up to date: manage.py document_reasons")
        GUIDE.write_text(wanted)
        self.stdout.write(f"{GUIDE.name} is up to date now")


def documented(text: str) -> str:
    """The guide with today's table between its marks. Raises CommandError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CommandError(f"{GUIDE.name} has no place for the table: {BEGIN.strip()} … {END}")
    return f"{before}{BEGIN}{reasons_table()}{END}{after}"
