"""Reads the addresses of the database and of the queue; no Django, since `deploy` reads them too.

A password never gets into a message: what is wrong is said with the variable's name only.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
import redis

DATABASE_VARIABLE = "DATABASE_URL"
REDIS_VARIABLE = "REDIS_URL"
SQLITE = "django.db.backends.sqlite3"
POSTGRESQL = "django.db.backends.postgresql"
# A process that lives for weeks asks before each use whether its connection still works.
CONNECTION_SECONDS = 600
CONNECT_SECONDS = 5
# A server that is cut off without a word is noticed by then; as long as SQLite waits for a lock.
SILENCE_MILLISECONDS = 20_000
POSTGRESQL_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": SILENCE_MILLISECONDS,
    # A process that is stopped in the middle of a transaction must not hold its locks for ever.
    "options": "-c lock_timeout=20s -c idle_in_transaction_session_timeout=60s",
}
# IMMEDIATE and WAL: without them 16-88 % of concurrent read-modify-writes fail with "locked".
SQLITE_OPTIONS: dict[str, Any] = {
    "timeout": 20,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
DATABASE_REMEDY = (
    "Write postgresql://user:password@host:5432/name (special characters as %XX), or "
    "sqlite:////folder/file.sqlite3, or leave it out for SQLite in MLOPS_HOME."
)
REDIS_REMEDY = (
    "Write redis://:password@host:6379/0, rediss:// for TLS, or unix:///folder/redis.sock; or "
    "leave it out for the queue in the database."
)


class WrongAddress(ValueError):
    """One sentence that names the variable and the remedy; never the address itself."""


def database_settings(url: str, *, default_file: Path, name: str) -> dict[str, Any]:
    """Django's settings of the database at `url`; of SQLite in `default_file` when it is empty.

    `name` is what a PostgreSQL server shows of us. Raises WrongAddress.
    """
    if not url:
        return {"ENGINE": SQLITE, "NAME": default_file, "OPTIONS": dict(SQLITE_OPTIONS)}
    scheme = url.partition(":")[0]
    if scheme not in ("sqlite", "postgresql", "postgres"):
        raise _wrong(DATABASE_VARIABLE, "is not the address of PostgreSQL or SQLite")
    try:
        found: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        raise _wrong(DATABASE_VARIABLE, "cannot be read") from None
    options: dict[str, Any] = found.get("OPTIONS") or {}
    if found["ENGINE"] == SQLITE:
        if not Path(str(found["NAME"])).is_absolute():
            raise _wrong(DATABASE_VARIABLE, "does not name a file by its whole path")
        return {**found, "OPTIONS": {**SQLITE_OPTIONS, **options}}
    if not found["NAME"]:
        raise _wrong(DATABASE_VARIABLE, "names no database")
    return {
        **found,
        "CONN_MAX_AGE": CONNECTION_SECONDS,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**POSTGRESQL_OPTIONS, "application_name": name, **options},
    }


def redis_address(url: str) -> str:
    """The address itself, or empty when there is none. Raises WrongAddress."""
    if not url:
        return ""
    try:
        redis.Redis.from_url(url).connection_pool.make_connection()
    except (ValueError, TypeError):
        raise _wrong(REDIS_VARIABLE, "is not the address of a Redis") from None
    return url


def without_password(url: str) -> str:
    """For people to read: scheme, host and path; what follows `?` may hold a password too."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _wrong(variable: str, what: str) -> WrongAddress:
    remedy = DATABASE_REMEDY if variable == DATABASE_VARIABLE else REDIS_REMEDY
    return WrongAddress(f"{variable} {what}. {remedy}")
