"""Where an act comes from: the console, the API, somebody's shell, or the platform itself.

It is known where a request or a command begins, and asked for where an act is written down, so that
no service in between passes it on. Knows no rows: `manage.py` says it before Django is set up.
"""

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from django.db.models import TextChoices


class Channel(TextChoices):
    CONSOLE = "console", "Console"
    API = "api", "API"
    CLI = "cli", "Command line"
    PLATFORM = "platform", "Platform"


def _nobody() -> str:
    return ""


@dataclass(frozen=True)
class Source:
    """`person` is asked only when something is written down: to know it may take a query."""

    channel: Channel
    address: str = ""
    person: Callable[[], str] = _nobody


PLATFORM = Source(Channel.PLATFORM)
_current: ContextVar[Source] = ContextVar("source", default=PLATFORM)


def current_source() -> Source:
    """That of the request or command that this code works for; else the platform's own."""
    return _current.get()


@contextlib.contextmanager
def coming_from(source: Source) -> Iterator[None]:
    """What is done in the block comes from there."""
    token = _current.set(source)
    try:
        yield
    finally:
        _current.reset(token)


def shell() -> Source:
    """Whoever runs a command on this machine, by the name of the account."""
    return Source(Channel.CLI, person=account_name)


def account_name() -> str:
    """The name of this process' account, or its number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
