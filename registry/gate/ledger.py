"""What each attempt's user made in MLflow and how much he sent there: one small file of SQLite.

Nobody but the gate writes it. A user's rows go with the user; without a row nothing is his.
"""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS made (id TEXT PRIMARY KEY, username TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS made_by ON made (username);
CREATE TABLE IF NOT EXISTS sent (
    username TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL DEFAULT 0,
    files INTEGER NOT NULL DEFAULT 0,
    refused TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
"""
MIB = 1024 * 1024


@dataclass(frozen=True)
class Bounds:
    """What one attempt may send to MLflow in all."""

    megabytes: int
    files: int


# The operator's settings; MLflow's process reads the same ones.
MEGABYTES_VARIABLE, FILES_VARIABLE = "MLOPS_JOB_ARTIFACTS_MB", "MLOPS_JOB_ARTIFACT_FILES"
USUAL_BOUNDS = Bounds(megabytes=10_240, files=10_000)


class TooMuch(Exception):
    """An attempt sent as much as it may; the text says what of."""


class Ledger:
    """Safe to be used from several threads."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._rows.executescript(TABLES)

    def note_made(self, username: str, made: str) -> None:
        self._do("INSERT OR IGNORE INTO made (id, username) VALUES (?, ?)", made, username)

    def owns(self, username: str, made: str) -> bool:
        asked = "SELECT 1 FROM made WHERE id = ? AND username = ?"
        return self._do(asked, made, username) is not None

    def charge(self, username: str, *, size: int, files: int) -> None:
        """Counts what is about to be sent. Raises TooMuch, and counts nothing then.

        What is sent again counts again, so that nothing which fails half-way is free.
        """
        with self._lock:
            self._rows.execute("INSERT OR IGNORE INTO sent (username) VALUES (?)", (username,))
            asked = "SELECT bytes, files FROM sent WHERE username = ?"
            sent, sent_files = self._rows.execute(asked, (username,)).fetchone()
            refused = self._refusal(sent + size, sent_files + files)
            if refused:
                change = "UPDATE sent SET refused = ? WHERE username = ?"
                self._rows.execute(change, (refused, username))
                raise TooMuch(refused)
            change = "UPDATE sent SET bytes = ?, files = ? WHERE username = ?"
            self._rows.execute(change, (sent + size, sent_files + files, username))

    def refused(self, username: str) -> str:
        """What of an attempt's was refused because it was too much; empty when nothing was."""
        found = self._do("SELECT refused FROM sent WHERE username = ?", username)
        return str(found[0]) if found else ""

    def forget(self, username: str) -> None:
        for change in (
            "DELETE FROM made WHERE username = ?",
            "DELETE FROM sent WHERE username = ?",
        ):
            self._do(change, username)

    def _refusal(self, size: int, files: int) -> str:
        if size > self._bounds.megabytes * MIB:
            return f"A job may send at most {self._bounds.megabytes} MiB to MLflow."
        if files > self._bounds.files:
            return f"A job may send at most {self._bounds.files} files to MLflow."
        return ""

    def _do(self, statement: str, *values: str) -> tuple[object, ...] | None:
        with self._lock:
            found: tuple[object, ...] | None = self._rows.execute(statement, values).fetchone()
            return found
