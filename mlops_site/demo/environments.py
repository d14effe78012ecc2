"""The environments of the demo: which packages belong to which requirements, and their rows."""

import hashlib
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from mlops_site.demo.output import build_output
from mlops_site.demo.projects import ALWAYS_PINNED, OTHER_ENVIRONMENTS, PINS, PROJECTS
from training.models import BuiltEnvironment

MB = 1_000_000
PACKAGE_MB = {"torch": 780, "xgboost": 310, "scipy": 110, "scikit-learn": 42, "pandas": 61}
BROKEN = ("xgboost==1.3.3", "pandas==2.3.3")
FAILED_BUILD = (
    "  × Failed to build `xgboost==1.3.3`\n"
    "  ├─▶ The build backend returned an error\n"
    "  ╰─▶ CMake 3.13 or higher is required: cmake was not found\n"
)


def pins_of(requirements: Sequence[str]) -> list[str]:
    """What they resolve to, by name."""
    brought = {pin for one in requirements for pin in PINS.get(one.partition("==")[0], ())}
    return sorted({*requirements, *brought, *ALWAYS_PINNED})


def key_of(requirements: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(pins_of(requirements)).encode()).hexdigest()[:16]


def lock_of(requirements: Sequence[str]) -> str:
    """A requirements file with hashes, which lead nowhere."""
    return "".join(
        f"{pin} \\\n    --hash=sha256:{hashlib.sha256(pin.encode()).hexdigest()}\n"
        for pin in pins_of(requirements)
    )


def environment_rows(rng: random.Random, *, now: datetime, jobs: int) -> list[BuiltEnvironment]:
    """One for each set of the projects, and some that are new, old, broken or gone.

    `jobs` is how many jobs there are in all; each environment says how many it was used by.
    """
    often: dict[tuple[str, ...], int] = {}
    for project in PROJECTS:
        often[project.requirements] = often.get(project.requirements, 0) + project.often
    rows = [
        _ready(rng, requirements, now=now, jobs=jobs * share // 100)
        for requirements, share in often.items()
    ]
    torch, older, small, bare = (_ready(rng, one, now=now, jobs=3) for one in OTHER_ENVIRONMENTS)
    torch.state, torch.asked = BuiltEnvironment.State.BUILDING, ""
    torch.size_bytes, torch.built_at, torch.last_used_at = 0, None, None
    older.state, older.size_bytes = BuiltEnvironment.State.GONE, 0
    older.last_used_at = now - timedelta(days=41)
    small.last_used_at = now - timedelta(days=9)
    return [*rows, torch, older, small, bare, _broken(now=now)]


def _ready(
    rng: random.Random, requirements: tuple[str, ...], *, now: datetime, jobs: int
) -> BuiltEnvironment:
    pins = pins_of(requirements)
    seconds = 4 + len(pins) * rng.uniform(0.4, 0.9)
    made = now - timedelta(days=rng.randrange(12, 80), seconds=rng.randrange(80_000))
    megabytes = sum(PACKAGE_MB.get(pin.partition("==")[0], 6) for pin in pins)
    return BuiltEnvironment(
        key=key_of(requirements),
        state=BuiltEnvironment.State.READY,
        lock=lock_of(requirements),
        python_version="3.11",
        packages=len(pins),
        size_bytes=megabytes * MB,
        build_log=build_output(pins, seconds),
        build_seconds=round(seconds, 1),
        jobs=jobs,
        created_at=made,
        built_at=made + timedelta(seconds=seconds),
        last_used_at=now - timedelta(minutes=rng.randrange(1, 900)),
    )


def _broken(*, now: datetime) -> BuiltEnvironment:
    return BuiltEnvironment(
        key=key_of(BROKEN),
        state=BuiltEnvironment.State.FAILED,
        lock=lock_of(BROKEN),
        python_version="3.12",
        packages=len(pins_of(BROKEN)),
        build_log=FAILED_BUILD,
        build_seconds=7.9,
        error="Installing the requirements failed.",
        jobs=1,
        created_at=now - timedelta(hours=7),
    )
