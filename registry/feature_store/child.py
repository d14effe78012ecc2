"""Starts the process that works with Feast for a worker, and reads what it says, line by line.

It knows neither Feast nor rows.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.online.client import CHECKOUT, WITHHELD

COMMAND = (sys.executable, "-W", "ignore", "-m", "registry.online.work")
# So often whoever waits may say that it still does.
TICK_SECONDS = 5.0
MESSAGE_BYTES = 32 * 1024 * 1024
PIECE_BYTES = 1 << 20
# Of no use to it; those of a worker beside those that are kept from the web's.
NOT_FOR_IT = (*WITHHELD, "REDIS_URL", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
Message = dict[str, Any]


class WorkFailed(Exception):
    """It did not do what it was asked for: a sentence for users."""


def work(repo: Path, order: Mapping[str, Any], *, seconds: float) -> Iterator[Message | None]:
    """Its messages as they come, and None every few seconds without one.

    Whoever stops reading ends it. Raises WorkFailed, also when it takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    with _started(repo, order) as child:
        for message in _messages(child, deadline=deadline):
            if message is not None and "failed" in message:
                raise WorkFailed(str(message["failed"]))
            yield message
            if time.monotonic() >= deadline:
                raise WorkFailed(f"It took longer than {seconds:g} s, and was ended.")
        if child.wait() != 0:
            raise WorkFailed("The process that works with Feast ended in the middle of it.")


@contextlib.contextmanager
def _started(repo: Path, order: Mapping[str, Any]) -> "Iterator[subprocess.Popen[bytes]]":
    variables = {name: value for name, value in os.environ.items() if name not in NOT_FOR_IT}
    child = subprocess.Popen(
        [*COMMAND, str(repo)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env={**variables, "TQDM_DISABLE": "1"},
    )
    assert child.stdin is not None  # noqa: S101 - it was asked for
    with child:
        try:
            # One that ends at once is told of by the end of what it says.
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(order).encode() + b"\n")
                child.stdin.flush()
            yield child
        finally:
            child.kill()


def _messages(child: "subprocess.Popen[bytes]", *, deadline: float) -> Iterator[Message | None]:
    """Until it has no more to say."""
    assert child.stdout is not None  # noqa: S101 - it was asked for
    line, unread = child.stdout.fileno(), bytearray()
    while True:
        wait = min(TICK_SECONDS, max(0.0, deadline - time.monotonic()))
        if not select.select([line], [], [], wait)[0]:
            yield None
            continue
        piece = os.read(line, PIECE_BYTES)
        if not piece:
            return
        unread += piece
        if len(unread) > MESSAGE_BYTES:
            raise WorkFailed("The feature store is too large to be described.")
        *whole, rest = unread.split(b"\n")
        unread = bytearray(rest)
        yield from (json.loads(each) for each in whole)
