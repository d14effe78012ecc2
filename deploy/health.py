"""Waits until every part of the platform says that it works."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from deploy.report import Stop

READY_SECONDS = 120
POLL_SECONDS = 0.1
REQUEST_SECONDS = 5


def wait_until_ready(url: str, *, check: Callable[[], None]) -> None:
    """Asks `url` until it answers 200; `check` raises when a process is beyond help.

    Raises Stop naming the parts that are missing when the time is over.
    """
    deadline = time.monotonic() + READY_SECONDS
    missing = "the web process"
    while time.monotonic() < deadline:
        check()
        parts = _ask(url)
        if parts is not None:
            missing = ", ".join(name for name, works in parts.items() if not works)
            if not missing:
                return
        time.sleep(POLL_SECONDS)
    raise Stop(f"Not ready after {READY_SECONDS} s: {missing}. MLOPS_HOME/logs says why.")


def _ask(url: str) -> dict[str, bool] | None:
    """Each part and whether it works; None when nothing answers yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_SECONDS) as answer:
            return dict(json.load(answer)["parts"])
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return dict(json.load(error)["parts"])
        return None
    except (OSError, ValueError):
        return None
