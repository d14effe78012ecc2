"""`manage.py seed_demo --jobs 1000`: a believable installation of rows, for pictures and sizes.

Refuses where there are jobs already, and where people work: see `--anyway`.
"""

import random
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from mlops_site.demo.people import make_people
from mlops_site.demo.processes import write_host
from mlops_site.demo.rows import Amount, are_written, write_jobs
from mlops_site.demo.surroundings import write_history, write_present
from mlops_site.demo.tracking import write_models
from mlops_site.demo.versions import number_versions
from mlops_site.models import Installation
from mlops_site.reports import tell_of_settings
from training.models import Job

DEFAULT_JOBS = 1000
JOBS_MAX = 5_000_000
BEAT_SECONDS = 5


class Command(BaseCommand):
    help = "Fills an empty installation with jobs, models' servers and all that stands around them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--jobs", type=int, default=DEFAULT_JOBS, help="0: people and a host, as on a first day"
        )
        parser.add_argument("--seed", type=int, default=1, help="another one, another story")
        parser.add_argument(
            "--password", default="", help="makes vera, dana, otto and ada, one of each group"
        )
        parser.add_argument(
            "--mlflow",
            action="store_true",
            help="also runs, versions and aliases in the MLflow of MLFLOW_TRACKING_URI",
        )
        parser.add_argument(
            "--anyway",
            action="store_true",
            help="beside jobs that are there, or where people work; then only what has ended is "
            "made, so that nothing of it is run, and nobody can log in who could not before",
        )
        parser.add_argument(
            "--stay", action="store_true", help="say until the end that all processes are well"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        beside = bool(options["anyway"])
        if not 0 <= options["jobs"] <= JOBS_MAX:
            raise CommandError(f"--jobs: from 0 to {JOBS_MAX}.")
        if not beside:
            _refuse_real()
        if options["jobs"]:
            self._tell(options, beside=beside)
        if not beside:
            tell_of_settings()
            write_host(now=timezone.now())
            if options["password"]:
                make_people(options["password"])
        self.stdout.write(f"Made {options['jobs']} jobs. Done.")
        self.stdout.flush()
        if options["stay"] and not beside:
            _stay()

    def _tell(self, options: dict[str, Any], *, beside: bool) -> None:
        now = timezone.now().replace(microsecond=0)
        rng = random.Random(options["seed"])  # noqa: S311 - a demo's chance must be repeatable
        amount = Amount.of(options["jobs"])
        if are_written(seed=options["seed"], amount=amount, with_alive=not beside):
            raise CommandError("This very story is here already: choose another --seed.")
        write_jobs(seed=options["seed"], amount=amount, now=now, with_alive=not beside)
        stories = number_versions()
        if options["mlflow"]:
            write_models(rng, stories)
        write_history(rng, stories, now=now, jobs=options["jobs"])
        if not beside:
            write_present(rng, stories, now=now)


def _refuse_real() -> None:
    """Raises CommandError where this would stand among what people work with."""
    if Job.objects.exists():
        raise CommandError(
            "There are jobs here already. Seed an empty database, or say --anyway: then ended jobs "
            "are added, and nothing that would be run."
        )
    if Installation.owner() and not settings.DEBUG:
        raise CommandError(
            f"This is the installation {Installation.owner()}, as people work with it. Seed one "
            "of your own (MLOPS_HOME, DATABASE_URL), or say --anyway: then ended jobs are added, "
            "and nothing that would be run."
        )


def _stay() -> None:
    """Until a signal ends the process."""
    never = threading.Event()
    while not never.wait(BEAT_SECONDS):
        write_host(now=timezone.now())
