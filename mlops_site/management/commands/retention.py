"""`manage.py retention [--dry-run]`: clears away what is old, or says what would go.

The supervisor has it done once a day. The rules are settings (`MLOPS_KEEP_…`).
"""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.services import batch_watching
from mlops_site.models import RETENTION, Heartbeat
from registry import audit
from registry.audit import Act, Kind
from registry.mlflow_client import RegistryUnavailable, model_registry
from training.services.retention import Line, Retention, Rule


class Command(BaseCommand):
    help = "Deletes ended jobs and batches, logs, MLflow runs and idempotency keys that are old."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, **options: Any) -> None:
        retention = Retention(model_registry())
        try:
            self.stdout.write(_table([*retention.preview(), _batches(), _audit()]))
            if options["dry_run"]:
                return
            audit.record(Act.RETENTION, Kind.PLATFORM, "retention")
            batch_watching.clear_old()
            audit.forget_old()
            retention.clear()
        except RegistryUnavailable as error:
            raise CommandError(
                "MLflow does not answer, so nobody can say which jobs a model came from."
            ) from error
        Heartbeat.beat(RETENTION)
        self.stdout.write("Done.")


def _batches() -> Line:
    rule = Rule(settings.KEEP_BATCHES_DAYS)
    return Line("batch predictions", str(rule), batch_watching.old_batches().count())


def _audit() -> Line:
    days = settings.KEEP_AUDIT_DAYS
    rule = f"more than {days} days ago" if days else str(Rule(0))
    return Line("lines of the audit", rule, audit.old_entries())


def _table(lines: list[Line]) -> str:
    rows = [("what", "goes", "stays for a model", "rule")]
    rows += [(line.what, str(line.go), str(line.stay), line.rule) for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{what.ljust(widths[0])}  {go.rjust(widths[1])}  {stay.rjust(widths[2])}  {rule}"
        for what, go, stay, rule in rows
    )
