"""`manage.py admission`: shows whether new work is begun; pauses it, drains a worker, and back.

`drain --wait` comes back when nothing is left that has an end: then the machine may be stopped.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from mlops_site.admission import NowHeld, held_now
from registry.holds import HeldBy
from registry.models import WHY_CHARACTERS
from registry.sources import account_name
from training.services import admission

LOOK_SECONDS = 2.0


class Command(BaseCommand):
    help = "Whether jobs, batches and builds are begun: show, pause, resume, drain, undrain."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "act",
            choices=["show", *ACTS],
            help="pause: no job or batch is started; drain: nothing that has an end is begun",
        )
        parser.add_argument(
            "--why", default="", help=f"shown to everybody, at most {WHY_CHARACTERS} characters"
        )
        parser.add_argument(
            "--wait", action="store_true", help="come back when nothing that has an end is left"
        )

    def handle(self, *args: Any, act: str, why: str, wait: bool, **options: Any) -> None:
        if act in ACTS:
            ACTS[act](account_name(), why)
        now = held_now()
        self.stdout.write("\n".join(_lines(now)))
        while wait and now.left:
            time.sleep(LOOK_SECONDS)  # a command hears no bell of the supervisor's
            now = held_now()
        if wait:
            self.stdout.write("Nothing is left that has an end.")


def _lines(now: NowHeld) -> list[str]:
    told = now.admission
    lines = [_line("paused", told.paused), _line("draining", told.draining)]
    held = [line for line in lines if line]
    return [
        *(held or ["open: what waits is started as far as there is room"]),
        f"{now.waiting} jobs wait; still at work: {now.left.words}",
    ]


def _line(word: str, held: HeldBy | None) -> str:
    if held is None:
        return ""
    why = f": {held.why}" if held.why else ""
    return f"{word} by {held.by} since {held.since:%Y-%m-%d %H:%M:%S} UTC{why}"


ACTS: dict[str, Callable[[str, str], object]] = {
    "pause": lambda actor, why: admission.pause(actor=actor, why=why),
    "resume": lambda actor, why: admission.resume(actor=actor),
    "drain": lambda actor, why: admission.drain(actor=actor, why=why),
    "undrain": lambda actor, why: admission.undrain(actor=actor),
}
