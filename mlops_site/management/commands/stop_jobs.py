"""`manage.py stop_jobs`: ends what runs in containers, and gives running jobs back to the queue.

For whoever stops the platform: after worker and supervisor have ended, while MLflow and the engine
still answer. The jobs run again, as a new attempt, when the platform is started the next time.
"""

from typing import Any

from django.core.management.base import BaseCommand

from inference.services import batch_watching, pool
from training.services import observe


class Command(BaseCommand):
    help = "Ends running jobs, batches and model servers; jobs and batches wait for the next start."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        jobs = observe.stop_everything()
        pool.end_all()
        batch_watching.give_back_all()
        if jobs:
            word = "job was" if jobs == 1 else "jobs were"
            self.stdout.write(f"{jobs} {word} stopped and will run again at the next start.")
