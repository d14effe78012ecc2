"""The demo's host and processes: as if each of them had just said that it works.

To be said again before it is old: `manage.py seed_demo --stay`.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from mlops_site import reports
from mlops_site.models import QUEUE, RETENTION, SUPERVISOR, WORKER, Heartbeat, Report
from training.models import Attempt, EngineCapacity, SandboxProof

HOST = "engine-1"
# Each process of the worker, and what it is at; the leases of the demo's jobs name them.
AT = {
    61: "training.tasks.launch",
    62: "training.tasks.launch",
    63: "training.tasks.finish",
    64: "",
    65: "",
}
LAUNCHING, STARTING, FINISHING = (f"{HOST}:{pid}" for pid in (61, 62, 63))
BEATS = {WORKER: 3, SUPERVISOR: 2, QUEUE: 4, RETENTION: 19_000}
MEMORY_MB, CPUS = 96_000, 32
CHECKS = (
    ("internet", "the platform's own address", "10.88.0.1:8000", "refused"),
    ("internet", "another container", "10.88.1.7:5000", "no answer"),
    ("internet", "the host's network", "192.168.1.10:22", "refused"),
    ("none", "the internet", "203.0.113.7:443", "no route"),
)
SELF_TEST = (
    ("runc", "root file system", "read-only"),
    ("runc", "capabilities", "none"),
    ("runc", "processes", "at most 256"),
    ("runc", "memory", "killed above the limit"),
)


def write_host(*, now: datetime) -> None:
    """As if every process had just said that it works; to be said again before it is old."""
    for name, age in BEATS.items():
        at = now - timedelta(seconds=age)
        Heartbeat.objects.update_or_create(name=name, defaults={"beaten_at": at})
    _write_reports(now=now)
    soon = now + timedelta(seconds=60)
    Attempt.objects.filter(finished_at=None).update(lease_expires_at=soon)
    measured = {
        "memory_mb": MEMORY_MB,
        "memory_free_mb": 41_700,
        "cpus": CPUS,
        "disk_free_mb": 412_000,
        "measured_at": now - timedelta(seconds=2),
    }
    EngineCapacity.objects.update_or_create(engine="local", defaults=measured)
    proved = {
        "rules_at": now - timedelta(hours=30),
        "rules_hash": hashlib.sha256(b"demo").hexdigest(),
        "checked_at": now - timedelta(seconds=140),
        "results": [_result(check) for check in CHECKS],
        "sandbox_checked_at": now - timedelta(hours=29),
        "sandbox_rows": [
            {"subject": subject, "what": what, "wanted": wanted, "got": wanted, "passed": True}
            for subject, what, wanted in SELF_TEST
        ],
    }
    SandboxProof.objects.update_or_create(engine="local", defaults=proved)


def _write_reports(*, now: datetime) -> None:
    since = (now - timedelta(seconds=7)).isoformat()
    processes = [{"pid": pid, "task": task, "since": since} for pid, task in AT.items()]
    told: dict[str, dict[str, Any]] = {
        f"{reports.WORKER} {HOST}:41": {"whole": True, "processes": processes},
        f"{reports.SUPERVISOR} {HOST}:42": {"engine": "local"},
        reports.QUEUE: {"kind": "database", "waiting": 0, "taken": 3, "tasks": [], "failed": []},
    }
    for name, words in told.items():
        Report.objects.update_or_create(name=name, defaults={"told": words, "told_at": now})


def _result(check: tuple[str, str, str, str]) -> dict[str, object]:
    network, what, address, got = check
    return {"network": network, "what": what, "address": address, "got": got, "passed": True}
