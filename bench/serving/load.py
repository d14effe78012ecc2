"""Load by wrk: one thread, kept connections, the same body again and again."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.trial import TrialFailed

UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
"""


@dataclass(frozen=True)
class Sample:
    """One run of wrk: milliseconds, and requests answered in a second."""

    p50: float
    p99: float
    rate: float


def require_wrk() -> None:
    """Raises TrialFailed."""
    if shutil.which("wrk") is None:
        raise TrialFailed("wrk is needed to make load: apt-get install wrk")


def run(
    url: str, body: bytes, headers: Mapping[str, str], *, connections: int, seconds: int
) -> Sample:
    """Raises TrialFailed when any answer was not a 2xx, or none came."""
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / "body"
        content.write_bytes(body)
        script = Path(folder) / "post.lua"
        lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        script.write_text(SCRIPT.format(body=content, headers=lines))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        command += ["--latency", "-s", str(script), url]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise TrialFailed(f"{url}: {told}")
    return Sample(_percentile(told, "50%"), _percentile(told, "99%"), _rate(told))


def _percentile(told: str, which: str) -> float:
    found = re.search(rf"^\s*{which}\s+([\d.]+)(us|ms|s|m)\s*$", told, re.MULTILINE)
    if found is None:
        raise TrialFailed(told)
    return float(found[1]) * UNITS[found[2]]


def _rate(told: str) -> float:
    found = re.search(r"^Requests/sec:\s+([\d.]+)", told, re.MULTILINE)
    if found is None:
        raise TrialFailed(told)
    return float(found[1])
