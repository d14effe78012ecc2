"""What really happened, read where it is kept: rows, the engine, MLflow's users, the folders."""

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.trial import Platform
from sandbox.engine import Engine, EngineError, EngineUnavailable
from sandbox.network import network_names

RECONNECT_SECONDS = 0.2


@dataclass(frozen=True)
class AttemptRow:
    """One attempt as the database has it, with all that was kept of what its script printed."""

    id: int
    job_id: str
    number: int
    exit_code: int | None
    reason: str
    started: bool
    said_to_be_whole: bool
    container_id: str
    log: str


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def attempts(platform: Platform) -> list[AttemptRow]:
    chunks = "SELECT data FROM training_logchunk WHERE attempt_id = ? AND part = 'run'"
    with database(platform.home / "db" / "platform.sqlite3") as rows:
        return [
            AttemptRow(
                id=row["id"],
                job_id=row["job_id"],
                number=row["number"],
                exit_code=row["exit_code"],
                reason=row["reason"],
                started=row["container_started_at"] is not None,
                said_to_be_whole=bool(row["output_is_whole"]),
                container_id=row["container_id"],
                log=_text(rows.execute(f"{chunks} ORDER BY offset", (row["id"],)).fetchall()),
            )
            for row in rows.execute("SELECT * FROM training_attempt ORDER BY id").fetchall()
        ]


def unfinished(platform: Platform) -> list[dict[str, Any]]:
    """Jobs without an end, with what they are at."""
    asked = (
        "SELECT j.id, j.status, j.phase, j.not_before, a.number, a.lease_owner, a.lease_expires_at,"
        " a.container_id FROM training_job j"
        " LEFT JOIN training_attempt a ON a.job_id = j.id AND a.finished_at IS NULL"
        " WHERE j.status IN ('queued', 'running') ORDER BY j.created_at"
    )
    with database(platform.home / "db" / "platform.sqlite3") as rows:
        return [dict(row) for row in rows.execute(asked).fetchall()]


def jobs(platform: Platform) -> list[dict[str, Any]]:
    asked = (
        "SELECT id, script_name, status, reason, error, model_version, created_at, completed_at,"
        " (SELECT count(*) FROM training_attempt a WHERE a.job_id = training_job.id) AS attempts"
    )
    with database(platform.home / "db" / "platform.sqlite3") as rows:
        return [dict(row) for row in rows.execute(f"{asked} FROM training_job").fetchall()]


def left_containers(platform: Platform, engine: Engine) -> list[str]:
    """Names of containers that belong to nothing: no server, and none that waits for a job."""
    label = {"mlops.installation": platform.installation_id}
    with database(platform.home / "db" / "platform.sqlite3") as rows:
        asked = "SELECT container_id FROM training_waitingcontainer WHERE state <> 'taken'"
        waiting = {row["container_id"] for row in rows.execute(asked).fetchall()}
    return [
        state.name
        for state in engine.find(label)
        if state.labels.get("mlops.kind") != "server" and state.id not in waiting
    ]


def leftovers(platform: Platform, engine: Engine) -> dict[str, int]:
    """What ended jobs have left behind, by kind; every number is to be 0."""
    label = f"mlops.installation={platform.installation_id}"
    networks = {each["Name"] for each in engine.api.networks(filters={"label": [label]})}
    with database(platform.home / "mlflow" / "auth.db") as rows:
        asked = "SELECT count(*) FROM users WHERE username LIKE 'job-%'"
        users = rows.execute(asked).fetchone()[0]
    return {
        "containers": len(left_containers(platform, engine)),
        "networks": len(networks ^ set(network_names(platform.installation_id))),
        "users": users,
        "folders": len(list((platform.home / "jobs").glob("attempt-*"))),
    }


def volumes(engine: Engine) -> set[str]:
    return {volume["Name"] for volume in engine.api.volumes()["Volumes"] or []}


class StartWatcher:
    """Counts how often each attempt's script was made to run; no word of ours counts.

    A container of its own does when the engine starts it, one that waited when somebody attached
    to it, which gives it its one order.
    """

    def __init__(self, engine: Engine, installation_id: str) -> None:
        self._engine = engine
        self._seen: set[tuple[str, int]] = set()
        self._filters = {
            "type": "container",
            "event": ["start", "attach"],
            "label": [f"mlops.installation={installation_id}"],
        }
        self._since = int(time.time())
        threading.Thread(target=self._watch, name="start-watcher", daemon=True).start()

    def starts(self) -> Counter[str]:
        """By the attempt's id; for a container that waited, by the container's."""
        return Counter(name for name, _ in set(self._seen))

    def _watch(self) -> None:
        while True:
            try:
                self._follow()
            except (EngineError, EngineUnavailable):
                time.sleep(RECONNECT_SECONDS)

    def _follow(self) -> None:
        from sandbox.engine_errors import guarded_stream, mapped  # noqa: PLC0415

        events = mapped(self._engine.api.events)
        stream = events(since=self._since, decode=True, filters=self._filters)
        for event in guarded_stream(stream):
            told, container = event["Actor"]["Attributes"], event["Actor"]["ID"]
            match told.get("mlops.kind"), event["Action"]:
                case "job", "start":
                    self._seen.add((told["mlops.attempt"], event["timeNano"]))
                case "waiting", "attach":
                    self._seen.add((container, event["timeNano"]))


def _text(found: list[sqlite3.Row]) -> str:
    return b"".join(row["data"] for row in found).decode(errors="replace")
