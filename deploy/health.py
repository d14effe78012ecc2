"""Waits until every part of the platform says that it works."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from deploy.report import Stop

READY_SECONDS = 120
POLL_SECONDS = 0.1
REQUEST_SECONDS = 5
NETWORK = "network"


def wait_until_ready(url: str, *, check: Callable[[], None]) -> str:
    """Asks `url` until it answers 200; `check` raises when a process is beyond help.

    Returns what holds up jobs although everything runs: the firewall that was tried and does not
    hold. That is the operator's to mend, and the status page has to be there for it.

    Raises Stop naming the parts that are missing when the time is over.
    """
    deadline = time.monotonic() + READY_SECONDS
    missing = "the web process"
    while time.monotonic() < deadline:
        check()
        parts = _ask(url)
        if parts is not None:
            lacking = {name: part for name, part in parts.items() if not part["works"]}
            if not lacking:
                return ""
            if set(lacking) == {NETWORK} and lacking[NETWORK]["age_seconds"] is not None:
                return str(lacking[NETWORK]["detail"])
            missing = ", ".join(lacking)
        time.sleep(POLL_SECONDS)
    raise Stop(f"Not ready after {READY_SECONDS} s: {missing}. MLOPS_HOME/logs says why.")


def _ask(url: str) -> dict[str, dict[str, Any]] | None:
    """Each part, whether it works and since when; None when nothing answers yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_SECONDS) as answer:
            return dict(json.load(answer)["details"])
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return dict(json.load(error)["details"])
        return None
    except (OSError, ValueError):
        return None
