"""The disk with everything that the platform keeps is full while a job runs."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from deploy.testing import remove_installation
from deploy.trial import Platform, start_platform, stop_platform, wait_for
from sandbox.engine import Engine

MIB = 1024 * 1024
DISK_MB = 400
FREE_MB = 100
# Longer than the disk is full, so that some lines come before, some meanwhile, some after.
LINES = 200
PRINTS = f"""\
import time
for number in range({LINES}):
    print("line", number, flush=True)
    time.sleep(0.1)
raise SystemExit(3)
"""
SHORT = "raise SystemExit(3)\n"
BODY = {"script_name": "train.py", "script_content": SHORT}
ENDED = "The script ended with exit code 3."

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small disk of its own."""
    with tempfile.TemporaryDirectory(prefix="mlops-disk-") as made:
        Path(made).chmod(0o755)
        place = Path(made) / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(place)]
        subprocess.run(mount, check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def platform_on_disk(disk: Path, engine: Engine, installation_id: str) -> Iterator[Platform]:
    name = f"{installation_id}-disk"
    with mock.patch.dict(os.environ, {"MLOPS_DISK_FREE_MB": str(FREE_MB)}):
        platform = start_platform(disk / "var", name)
    try:
        yield platform
    finally:
        print(platform.said())
        stop_platform(platform)
        remove_installation(engine, name)


def fill(path: Path) -> None:
    """Until nothing more can be written; a database that wants to grow cannot."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * MIB)


def test_nothing_is_lost_while_the_disk_is_full(disk: Path, platform_on_disk: Platform):
    platform = platform_on_disk
    job_id = platform.upload(PRINTS)
    platform.in_phase(job_id, "training")
    wait_for(lambda: "line 3\n" in platform.job(job_id)["logs"], seconds=30, what="output")
    waste = disk / "waste"
    fill(waste)

    def codes() -> set[str]:
        for path in ("/mlops/training/upload", "/mlops/training/validate"):
            answer = platform.post(path, BODY)
            if answer.status_code == 202:
                platform.jobs.append(answer.json()["job_id"])
            elif answer.status_code != 200:
                assert answer.status_code == 503, answer.text
                assert answer.headers["Retry-After"]
                seen.add(answer.json()["code"])
        return seen & {"disk_short", "database_unavailable"}

    seen: set[str] = set()
    wait_for(codes, seconds=30, what="a refusal that says why")
    assert platform.job(job_id)["status"] == "running", "reading goes on, and so does the job"
    waste.unlink()

    def accepted() -> str | None:
        answer = platform.post("/mlops/training/upload", BODY)
        return answer.json()["job_id"] if answer.status_code == 202 else None

    platform.jobs.append(wait_for(accepted, seconds=30, what="a job that is accepted again"))
    job = platform.ended(job_id)
    assert (job["error"], job["attempt"]) == (ENDED, 1)
    lines = [line for line in job["logs"].splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(LINES)]
    for each in platform.jobs:
        assert platform.ended(each)["error"] == ENDED
