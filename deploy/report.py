"""What the person at the terminal reads."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(Exception):
    """Cannot go on; the message is one clear sentence with the remedy."""


def step(text: str) -> None:
    """One line for something that is about to take a while."""
    print(f"→ {text}", flush=True)


def warn(text: str) -> None:
    print(f"! {text}", file=sys.stderr, flush=True)


@contextmanager
def timed_step(text: str) -> Iterator[None]:
    """A line before, and how long it took when that was noticeable."""
    started = time.monotonic()
    step(text)
    yield
    seconds = time.monotonic() - started
    if seconds >= 1:
        print(f"  done in {seconds:.1f} s", flush=True)


def box(lines: list[str]) -> None:
    """The addresses and logins, set apart from the progress lines."""
    width = max(len(line) for line in lines)
    rule = "─" * (width + 2)
    print(f"╭{rule}╮")
    for line in lines:
        print(f"│ {line.ljust(width)} │")
    print(f"╰{rule}╯", flush=True)
